"""Runs every test that the table of docs/reliability.md names, in a random order.

    python scripts/fault_table.py --seed 1 --seed 2 --out benchmarks/results/fault_table.json

One run for each seed. A name in the table is ``file::test``; ``...`` in it stands for any text, and
a name without a file is of the file named before it. A file alone stands for all of its tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "reliability.md"
TESTS = ROOT / "tests"

_ROW = re.compile(r"^\| (\d+) \|.*\|([^|]*)\|$")
_NAME = re.compile(r"`((?:[\w/]+\.py)?(?:::)?[\w.]*)`")


@dataclass(frozen=True)
class Row:
    """One fault: its number, and the tests that cause it as pytest names them."""

    number: int
    tests: tuple[str, ...]


def read_table(text: str, tests: Path = TESTS) -> list[Row]:
    """The rows of the table.

    Raises:
        LookupError: A name that no test has, or that more than one has, or a row without a test.
    """
    rows = []
    for line in text.splitlines():
        found = _ROW.match(line)
        if found is None:
            continue
        number, file, named = int(found[1]), "", []
        for name in _NAME.findall(found[2]):
            own, _, test = name.partition("::") if ".py" in name else (file, "", name)
            if own.startswith("benchmarks/"):
                continue  # a long run of its own
            file = own
            named += _tests_named(tests / file, test, number)
        if not named:
            raise LookupError(f"row {number}: no test is named")
        rows.append(Row(number, tuple(dict.fromkeys(named))))
    return rows


def _tests_named(file: Path, pattern: str, number: int) -> list[str]:
    if not file.is_file():
        raise LookupError(f"row {number}: there is no {file}")
    body = ast.parse(file.read_text()).body
    there = [x.name for x in body if isinstance(x, ast.FunctionDef) and x.name.startswith("test_")]
    if not pattern:
        return [f"{file}::{name}" for name in there]
    wanted = re.compile(".*".join(map(re.escape, pattern.split("..."))))
    fitting = [name for name in there if wanted.fullmatch(name)]
    if len(fitting) != 1:
        raise LookupError(f"row {number}: {pattern} is the name of {len(fitting)} tests of {file}")
    return [f"{file}::{fitting[0]}"]


def run(rows: list[Row], seed: int) -> dict[str, Any]:
    """Runs all tests once, in an order that the seed gives, and counts how they ended."""
    tests = sorted({test for row in rows for test in row.tests})
    random.Random(seed).shuffle(tests)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-m", "not gpu", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    ended = {kind: [c for c in cases if c.find(kind) is not None] for kind in ("failure", "error")}
    skipped = [(case, skip) for case in cases for skip in case.findall("skipped")]
    return {
        "seed": seed,
        "rows": len(rows),
        "tests": len(tests),
        "cases": len(cases),
        "failed": sorted({str(c.get("name")) for part in ended.values() for c in part}),
        "skipped": {str(case.get("name")): str(skip.get("message")) for case, skip in skipped},
        "seconds": round(time.monotonic() - begin, 1),
    }


def main() -> None:
    """Parses arguments, runs; exit 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, action="append", help="1 if left out")
    parser.add_argument("--first", type=int, default=1, help="leave out the rows before this one")
    parser.add_argument("--list", action="store_true", help="only print the names")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = [one for one in read_table(TABLE.read_text()) if one.number >= arguments.first]
    if arguments.list:
        print("\n".join(f"{row.number}: {test}" for row in rows for test in row.tests))
        return
    runs = [run(rows, seed) for seed in arguments.seed or [1]]
    print(json.dumps(runs, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(runs, indent=1) + "\n")
    sys.exit(1 if any(one["failed"] or not one["cases"] for one in runs) else 0)


if __name__ == "__main__":
    main()
