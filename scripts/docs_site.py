"""Lays the documents out in one folder as they lie in the repository, for Zensical.

    python scripts/docs_site.py FOLDER

Documents link to results, recipes and examples beside them. The generator knows only what is in its
folder, so all of that is copied there, and a link to anything else is a dead one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = (
    "*.md",
    "benchmarks/records/*",
    "benchmarks/results/*",
    "calibration/README.md",
    "docs/*",
    "examples/**/*",
    "recipes/**/*.json*",
    "recipes/**/*.yaml",
)


def main(folder: Path) -> None:
    """Fills the folder anew."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in PARTS:
        for file in sorted(ROOT.glob(part)):
            if file.is_file():
                place = folder / file.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
