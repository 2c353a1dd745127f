"""Fuzzing guided by coverage, with atheris (libFuzzer): a long run on one kind of file.

    pip install atheris
    python benchmarks/fuzz_guided.py --kind bundle --seconds 3600 --keep corpus/bundle

Same kinds, good files and readers as ``benchmarks/fuzz.py``, which says what may happen. libFuzzer
keeps what reaches new code in the folder ``--keep``, goes on from there the next time, and stops at
the first input that does what may not happen; it lies in that folder as ``crash-...`` then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

MAX_BYTES = 1 << 16
MEMORY_MB = 6144
SECONDS_PER_INPUT = 20


def main() -> None:
    """Parses arguments and hands over to libFuzzer, which ends the process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kind", required=True, help="recipe, checkpoint, bundle, idx, ...")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder of inputs; a temporary one if left out")
    arguments = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")

    with atheris.instrument_imports(include=["edgeres"]):
        from fuzz import kinds  # its readers import what is to be covered

        from edgeres.errors import EdgeResError

        found = {kind.name: kind for kind in kinds()}
    if arguments.kind not in found:
        parser.error(f"there is no kind {arguments.kind}; choose one of {', '.join(found)}")
    kind = found[arguments.kind]
    folder = arguments.keep or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(kind.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    case = Path(tempfile.mkdtemp()) / f"case{kind.suffix}"

    def one(data: bytes) -> None:
        case.write_bytes(data)
        with suppress(EdgeResError):  # refused, as it should be
            kind.read(case)

    options = [
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-max_len={MAX_BYTES}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={SECONDS_PER_INPUT}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
