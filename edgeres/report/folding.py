"""A table that stands as it is where it fits, and as a paragraph for each row where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

_GAP = 2  # columns between two of a table's
_FOLDED = 24  # columns from which on a long name may go on in the next line


class FoldingTable(Table):
    """A table without lines; nothing in it is ever cut.

    Columns that may not wrap take the room of their longest cell, others that of their longest
    word, of which what is longer than 24 goes on in the next line, or their ``min_width``. Where
    the screen has not as much, each row becomes a paragraph: the first cell, and below it a line
    for each other one with its heading.
    """

    def __init__(self) -> None:
        super().__init__(box=None, pad_edge=False)

    def add_column(self, header: RenderableType = "", **settings: Any) -> None:  # type: ignore[override]
        """As the base; what is too long goes on in the next line."""
        super().add_column(header, **{"overflow": "fold", **settings})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, or its rows one below the other."""
        least = sum(map(_least_width, self.columns)) + _GAP * (len(self.columns) - 1)
        if least <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        headings = [" ".join(_plain(column.header).split()) for column in self.columns]
        rows = zip(*(column.cells for column in self.columns), strict=True)
        for first, *others in rows:
            yield Text(_plain(first), overflow="fold")
            for heading, cell in zip(headings[1:], others, strict=True):
                if _plain(cell).strip():
                    yield Text(f"  {heading}: {_plain(cell)}", overflow="fold")


def _least_width(column: Column) -> int:
    texts = [_plain(column.header), *map(_plain, column.cells)]
    if column.no_wrap:
        return max(map(cell_len, _lines(texts)), default=0)
    if column.min_width is not None:
        return column.min_width
    longest = max((cell_len(word) for text in texts for word in text.split()), default=0)
    return min(longest, _FOLDED)


def _lines(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield from text.splitlines()


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
