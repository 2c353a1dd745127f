"""``edgeres clean``: frees the space of stored results that nothing uses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen
from edgeres.errors import ArtefactError


def clean(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Output folder, or a folder of them.")
    ] = Path("runs"),
    everything: Annotated[
        bool, typer.Option("--all", help="Remove all of them; the next run starts anew.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be removed and remove nothing.")
    ] = False,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Remove stored stage results that neither the last report nor the last run uses.

    Engines, reports and whatever else lies in the folders stays; so does the state of a training
    that the last run began. A folder that a run holds is refused. Models that a GPU or an NPU
    compiled are kept for all runs; those that were not used for a month go, with --all all of them.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.pipeline.clean import clean as run
        from edgeres.report.cells import size
        from edgeres.system.user_cache import clean_compiled

        compiled, compiled_bytes = clean_compiled(everything=everything, dry_run=dry_run)
        word = "would be removed" if dry_run else "removed"
        lines = []
        if compiled:
            lines.append(
                f"{len(compiled)} folders of compiled models {word} ({size(compiled_bytes)})"
            )
        try:
            folders = run(folder, everything=everything, dry_run=dry_run)
        except ArtefactError:
            if not compiled:
                raise
            folders = []  # a device that only runs engines has no output folder
        for one in folders:
            if one.finished:
                lines.append(f"{one.folder}: a run had been stopped at its end; finished.")
            lines.append(
                f"{one.folder}: {len(one.removed)} results {word} ({size(one.removed_bytes)}), "
                f"{one.kept} kept ({size(one.kept_bytes)})"
            )
        told = {"folders": [one.to_dict() for one in folders], "compiled": compiled}
        out.lines(told | {"compiled_bytes": compiled_bytes}, lines)
