"""The folders have an order, and no import runs against it."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path
from types import ModuleType

import pytest

from edgeres.evaluation import run_folder

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def drawing(load_program) -> ModuleType:
    return load_program(ROOT / "scripts" / "architecture.py")


@pytest.fixture(scope="module")
def imports(drawing: ModuleType) -> dict[str, set[str]]:
    return drawing.graph()


def test_no_import_runs_from_a_lower_floor_to_a_higher_one(drawing, imports):
    order = {name: place for place, name in enumerate((*drawing.GROUND, *drawing.FLOORS))}
    wrong = [
        f"{module} imports {other}"
        for module, imported in imports.items()
        for other in imported
        if order[drawing.folder(other)] > order[drawing.folder(module)]
    ]
    assert not wrong


def test_modules_import_each_other_in_no_circle(drawing, imports):
    assert drawing.circles(imports) == []


def test_the_order_names_every_folder_and_few_modules_are_loose(drawing):
    folders = {path.parent.name for path in drawing.PACKAGE.glob("*/__init__.py")}
    assert folders == set(drawing.FLOORS)
    loose = {path.stem for path in drawing.PACKAGE.glob("*.py")}
    assert loose == {"__init__", "__main__", *drawing.GROUND}


def test_floors_and_lengths_are_what_a_reader_can_hold(drawing, imports, capsys):
    floors = max(drawing.levels(imports).values()) + 1
    lengths = [len(path.read_text().splitlines()) for path in drawing.modules().values()]
    with capsys.disabled():
        print(
            f"\nhouse: {floors} floors of folders, {len(lengths)} files, {sum(lengths)} lines, "
            f"median {statistics.median(lengths):.0f}, longest {max(lengths)}"
        )
    assert floors <= 15
    assert max(lengths) <= 400
    assert statistics.median(lengths) <= 150


def test_the_picture_is_that_of_the_imports(drawing, imports):
    assert (ROOT / "docs" / "architecture.svg").read_text() == drawing.draw(imports)


def test_names_in_the_output_folder_are_written_in_one_file(drawing):
    named = {
        name: value
        for name, value in vars(run_folder).items()
        if name.isupper() and isinstance(value, str) and "." in value
    }
    assert {"REPORT", "PREDICTIONS", "TABLE", "QDQ"} <= set(named)
    again = [
        f"{path.name}: {value}"
        for module, path in drawing.modules().items()
        for value in set(named.values()) - {run_folder.MODEL}  # a usual name in other folders
        if re.search(rf"[\"'/]{re.escape(value)}[\"']", path.read_text())
        and module != run_folder.__name__
    ]
    assert not again


def test_what_is_against_the_order_is_seen(drawing):
    circle = {"edgeres.system.a": {"edgeres.cli.b"}, "edgeres.cli.b": {"edgeres.system.a"}}
    assert drawing.circles(circle) == ["edgeres.cli.b", "edgeres.system.a"]
    with pytest.raises(ValueError, match="a circle among"):
        drawing.levels(circle)


def test_imports_inside_functions_count_and_those_of_type_checkers_do_not(drawing, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport edgeres.errors\n"
        "if TYPE_CHECKING:\n    from edgeres.cli import screen\n"
        "def work():\n    from edgeres.data import types\n"
    )
    ast.parse(path.read_text())
    assert drawing.imports(path, drawing.modules()) == {"edgeres.errors", "edgeres.data.types"}
