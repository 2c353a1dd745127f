"""A list of image files with a header: CSV, TSV or semicolons, one column for each thing known.

======================================  =======================================================
column                                  what it is
======================================  =======================================================
``file``, ``path``, ``image``, ...      path of the image; needed. ``image_id`` and ``id`` too,
                                        where no other is; the ending may be left out
``label``, ``class``, ``category``      class: a number from 0 on in every line, or a name; a
                                        single column of text is one under any name
``labels``, or lists ``a|b|c`` in       several labels of one image; a column ``labels:a|b|c``
``label``                               says which there are, and their order
``NAME:a``, ``NAME:b``, ...             several labels as columns of 0 and 1; columns behind the
                                        first may leave ``NAME:`` out
``mask``                                path of the image's mask, relative as the image's is
any other column of numbers             a number to predict, by the column's name
======================================  =======================================================

Columns of text that are none of these are left out, and said.
"""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.arrays import MAX_CLASSES
from edgeres.data.imagefolder import EXTENSIONS
from edgeres.data.target_files import MASK
from edgeres.data.types import UNLABELLED
from edgeres.errors import DataError

PATHS = (
    *("file", "path", "image", "filename", "filepath", "file_name", "file_path"),
    *("image_path", "image_name", "img", "img_path"),
)
IDS = ("image_id", "imageid", "id")
CLASSES = ("label", "class", "category", "class_name", "label_name")
LISTS = "labels"
MAX_COLUMNS = 10_000

_WHOLE = re.compile(r"[0-9]{1,9}")
_TOLD = 80  # letters of a bad cell that are shown


@dataclass
class Table:
    """What a table says; arrays have one row for each file.

    Attributes:
        name: Of the file, for messages.
        lines: Line number of each row.
        paths: Of the images.
        values: Targets but masks, by name.
        masks: Paths of the masks; empty where there are none.
        columns: Names of the targets in their order.
        labels: ``(N,) int64`` class numbers.
        class_names: Of the classes, or of the several labels; empty where they have numbers.
        skipped: Names of columns that were left out.
    """

    name: str
    lines: list[int]
    paths: tuple[str, ...] = ()
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    masks: tuple[str, ...] = ()
    columns: list[str] = field(default_factory=list)
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    class_names: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)


def is_table(text: str) -> bool:
    """Whether the first line is a header that names a column of files."""
    header = text.lstrip("\ufeff\r\n \t").partition("\n")[0]
    cells = [cell.strip(' "\r').lower() for cell in re.split(r"[,;\t]", header)]
    named = any(cell in PATHS for cell in cells) or (len(cells) > 1 and cells[0] in IDS)
    return named and not _WHOLE.fullmatch(cells[-1])


def with_header(text: str) -> str:
    """The text of a table, with a header where it begins with a line such as ``cat.jpg,2``."""
    line = text.lstrip("\ufeff\r\n \t").partition("\n")[0]
    for mark in ",;":
        file, _, label = line.partition(mark)
        if file.strip(' "').lower().endswith(EXTENSIONS) and label.strip() and mark not in label:
            return f"{PATHS[0]}{mark}{CLASSES[0]}\n{text.lstrip(chr(0xFEFF))}"
    return text


def parse_table(text: str, name: str = "list") -> Table:
    """Parses a table; ``name`` is for errors.

    Raises:
        DataError: Columns that contradict each other, or a bad cell, with file and line.
    """
    rows = _rows(text, name)
    (_, header), *body = rows
    table = Table(name, [line for line, _ in body])
    if not body:
        raise DataError(f"Expected image files in {name!r}, got only a header.")
    columns = {heading: [cells[place] for _, cells in body] for place, heading in enumerate(header)}
    kinds = [heading for heading in header if heading.lower() in PATHS]
    kinds = kinds or [heading for heading in header if heading.lower() in IDS][:1]
    if len(kinds) != 1:
        raise DataError(
            f"Expected one column of files in line {rows[0][0]} of {name!r}, got "
            f"{', '.join(map(repr, kinds))}.",
            hint=f"Name it {PATHS[0]!r} and the others otherwise.",
        )
    table.paths = tuple(columns.pop(kinds[0]))
    _check_paths(table)
    table.labels = np.full(len(body), UNLABELLED, np.int64)
    group = ""
    groups: dict[str, dict[str, list[str]]] = {}
    for heading, cells in columns.items():
        word, colon, rest = (part.strip() for part in heading.partition(":"))
        listed = re.split(r"[|,]", rest) if colon else []
        if len(listed) > 1:
            _add_lists(table, word, cells, tuple(part.strip() for part in listed))
        elif colon or (group and word.lower() not in (MASK, LISTS, *CLASSES)):
            group = word if colon else group
            groups.setdefault(group, {})[rest if colon else heading] = cells
        else:
            group = ""
            _add_column(table, heading, cells)
    for word, members in groups.items():
        _add_group(table, word, members)
    if not table.columns and len(table.skipped) == 1:
        (only,) = table.skipped
        if 2 * len(set(columns[only])) <= len(columns[only]):  # names of things differ throughout
            _add_classes(table, only, columns[only])
            table.skipped = []
    return table


def _rows(text: str, name: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of every line that is not empty, as many as the header has."""
    header = text.lstrip("\ufeff\r\n \t").partition("\n")[0]
    delimiter = next((mark for mark in "\t;" if mark in header), ",")
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise DataError(
            f"Expected a table in {name!r}, got in line {reader.line_num}: {error}.",
            hint="Save it as CSV or TSV in UTF-8.",
        ) from error
    width = len(rows[0][1])
    if width > MAX_COLUMNS or len(set(rows[0][1])) != width or not all(rows[0][1]):
        raise DataError(
            f"Expected at most {MAX_COLUMNS:,} columns with names of their own in line "
            f"{rows[0][0]} of {name!r}, got {width}: {', '.join(rows[0][1])[:_TOLD]!r}.",
            hint="Give each column a name, and none twice.",
        )
    for line, cells in rows:
        if len(cells) != width:
            raise DataError(
                f"Expected {width} columns in line {line} of {name!r} as in its header, got "
                f"{len(cells)}.",
                hint="Put cells that hold the separator into quotes.",
            )
    return rows


def _check_paths(table: Table) -> None:
    first: dict[str, int] = {}
    for line, path in zip(table.lines, table.paths, strict=True):
        if not path:
            raise _bad(table, line, "file", "a path", path)
        if first.setdefault(path, line) != line:
            raise DataError(
                f"Expected each file once in {table.name!r}, got {path!r} in lines {first[path]} "
                f"and {line}.",
                hint="Take one of the lines out.",
            )


def _add_column(table: Table, heading: str, cells: list[str]) -> None:
    word = heading.lower()
    if word == MASK:
        for line, cell in zip(table.lines, cells, strict=True):
            if not cell:
                raise _bad(table, line, heading, "the path of a mask", cell)
        table.masks = tuple(cells)
        table.columns.append(MASK)
    elif word == LISTS or (word in CLASSES and any("|" in cell for cell in cells)):
        _add_lists(table, heading, cells, ())
    elif word in CLASSES:
        _add_classes(table, heading, cells)
    else:
        _add_numbers(table, heading, cells)


def _add_classes(table: Table, heading: str, cells: list[str]) -> None:
    if (table.labels != UNLABELLED).any():
        raise DataError(
            f"Expected one column of classes in {table.name!r}, got a second one, {heading!r}.",
            hint="Give several heads a column of numbers each, or labels.",
        )
    whole = sum(_WHOLE.fullmatch(cell) is not None for cell in cells)
    names = sorted(set(cells))
    as_numbers = 2 * whole > len(cells)
    for line, cell in zip(table.lines, cells, strict=True):
        if as_numbers and (not _WHOLE.fullmatch(cell) or int(cell) >= MAX_CLASSES):
            raise _bad(table, line, heading, f"a class number from 0 to {MAX_CLASSES - 1:,}", cell)
        if not cell:
            raise _bad(table, line, heading, "a class", cell)
    place = {name: number for number, name in enumerate(names)}
    table.labels = np.array(
        [int(cell) if as_numbers else place[cell] for cell in cells], dtype=np.int64
    )
    table.class_names = () if as_numbers else tuple(names)
    table.values[heading] = table.labels
    table.columns.append(heading)


def _add_lists(table: Table, heading: str, cells: list[str], known: tuple[str, ...]) -> None:
    """Several labels as lists; the sorted names that occur where nobody says which there are."""
    lists = [[part for part in re.split(r" *\| *", cell) if part] for cell in cells]
    names = known or tuple(sorted({part for parts in lists for part in parts}))
    place = {name: number for number, name in enumerate(names)}
    values = np.zeros((len(cells), len(names)), np.int64)
    for row, (line, parts) in enumerate(zip(table.lines, lists, strict=True)):
        for part in parts:
            if part not in place:
                raise _bad(table, line, heading, f"labels among {', '.join(names)[:_TOLD]}", part)
            values[row, place[part]] = 1
    if not names or len(names) >= MAX_COLUMNS:
        raise DataError(
            f"Expected labels such as 'cat|dog' in the column {heading!r} of {table.name!r}, got "
            f"{len(names):,} different ones.",
            hint="An image without any label has an empty cell.",
        )
    _add_several(table, heading, names, values)


def _add_group(table: Table, heading: str, members: dict[str, list[str]]) -> None:
    """Several labels as columns of 0 and 1."""
    for member, cells in members.items():
        for line, cell in zip(table.lines, cells, strict=True):
            if cell not in ("0", "1"):
                raise _bad(table, line, f"{heading}:{member}", "0 or 1", cell)
    values = np.array(list(members.values()), dtype=object).T == "1"
    _add_several(table, heading, tuple(members), values.astype(np.int64))


def _add_several(
    table: Table, heading: str, names: tuple[str, ...], values: NDArray[np.int64]
) -> None:
    if heading in table.values:
        raise DataError(f"Expected the labels {heading!r} once in {table.name!r}, got them twice.")
    table.values[heading] = values
    table.columns.append(heading)
    table.class_names = table.class_names or names


def _add_numbers(table: Table, heading: str, cells: list[str]) -> None:
    numbers = [_number(cell) for cell in cells]
    good = sum(number is not None for number in numbers)
    if 2 * good <= len(cells):
        table.skipped.append(heading)
        return
    for line, cell, number in zip(table.lines, cells, numbers, strict=True):
        if number is None:
            raise _bad(table, line, heading, "a finite number", cell)
    table.values[heading] = np.array(numbers, dtype=np.float64)
    table.columns.append(heading)


def _number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bad(table: Table, line: int, heading: str, expected: str, cell: str) -> DataError:
    return DataError(
        f"Expected {expected} in the column {heading!r} in line {line} of {table.name!r}, got "
        f"{cell[:_TOLD]!r}.",
        hint="Correct the cell, or take the line out.",
    )
