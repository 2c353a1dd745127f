"""A console that spells out control and bidirectional characters in whatever it prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.segment import Segment

from edgeres.system.foreign_text import visible


def open_console(*, stderr: bool) -> Console:
    """A console on stdout or stderr; what it prints is only shown.

    A pipe or a file has no width; there lines may be longer than those of a small screen.
    """
    console = _Console(stderr=stderr, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_FILES
    console.push_render_hook(_SpellOut())
    return console


_WIDTH_OF_FILES = 120


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leaves the end to the command line; the base ends the program with 1, a failed gate."""
        raise BrokenPipeError


class _SpellOut(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Wraps everything that is printed."""
        return [_Visible(renderable) for renderable in renderables]


@dataclass(frozen=True)
class _Visible:
    renderable: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in console.render(self.renderable, options):
            yield Segment(text if control else visible(text, lines=True), style, control)
