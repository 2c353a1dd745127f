"""The main job, measured: `edgeres convert` on the embedded default recipe, as README quotes it.

    python benchmarks/main_job.py --out benchmarks/results/main_job.json

Runs in an empty folder with the shipped pruning result, as the first run of a user does, and keeps
its report. Latency and speed-up are those of this machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console

import edgeres
from edgeres.cli.console import ConsoleListener
from edgeres.report.run_table import report_table
from edgeres.report.schema import write_report


def main() -> None:
    """Parses arguments, runs the recipe once, prints and keeps the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    begin = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        ConsoleListener(Console(stderr=True)) as listener,
    ):
        report = edgeres.convert(edgeres.load_recipe(), Path(folder) / "out", listener=listener)
    console = Console(width=110)
    console.print(report_table(report, console), highlight=False)
    console.print(f"\nThe pipeline took {time.monotonic() - begin:.0f} s.", highlight=False)
    if arguments.out:
        write_report(report, arguments.out)


if __name__ == "__main__":
    main()
