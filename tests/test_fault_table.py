"""The table of docs/reliability.md names tests that exist, and the program that runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "scripts" / "fault_table.py"


@pytest.fixture(scope="module")
def program(load_program):
    return load_program(PROGRAM)


def test_every_row_names_tests_that_exist(program):
    rows = program.read_table(program.TABLE.read_text())
    assert [row.number for row in rows] == list(range(1, 78))


def test_names_that_fit_no_test_or_many_are_errors(program, tmp_path):
    (tmp_path / "test_x.py").write_text("def test_a_one(): ...\ndef test_a_two(): ...\n")

    def tests(names: str) -> list[str]:
        (row,) = program.read_table(f"| # | fault | test |\n| 7 | odd | {names} |", tmp_path)
        return [test.rpartition("::")[2] for test in row.tests]

    assert tests("`test_x.py::test_a_one`, `..._two`") == ["test_a_one", "test_a_two"]
    assert tests("`test_x.py`; `benchmarks/kills.py`") == ["test_a_one", "test_a_two"]
    for wrong in ("`test_x.py::test_a_`", "`test_x.py::test_a...`", "`test_y.py`", "by hand"):
        with pytest.raises(LookupError, match="row 7"):
            tests(wrong)


def test_it_counts_what_failed_and_what_was_skipped(program, tmp_path):
    file = tmp_path / "test_x.py"
    file.write_text(
        "import pytest\n"
        "def test_good(): ...\n"
        "def test_bad(): raise ValueError\n"
        "def test_left_out(): pytest.skip('no root')\n"
    )
    rows = program.read_table("| 1 | odd | `test_x.py` |", tmp_path)
    found = program.run(rows, seed=3)
    assert (found["rows"], found["tests"], found["cases"]) == (1, 3, 3)
    assert found["failed"] == ["test_bad"]
    assert list(found["skipped"]) == ["test_left_out"]
