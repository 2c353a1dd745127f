"""What a person sees while a run goes on: one line a stage, a bar for the one at work.

Everything goes to stderr, so ``--json`` on stdout stays clean.
"""

from __future__ import annotations

import warnings
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeres.system.closing import Closing
from edgeres.system.progress import ProgressCallback, StagePart, bar


class ConsoleListener(Closing):
    """Draws the stages of a run with rich; a context manager that also prints warnings."""

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self._console = console
        self._verbose = verbose
        self._progress = Progress(
            TextColumn("  [bold]{task.description:<24}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", visible=False)
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> Self:
        self._catcher.__enter__()
        warnings.showwarning = self._show_warning
        self._progress.start()
        return self

    def close(self) -> None:
        """Stops drawing."""
        self._progress.stop()
        self._catcher.__exit__(None, None, None)

    def started(self, stage: str) -> None:
        """Shows the stage as the one at work."""
        self._progress.reset(self._task, description=stage, total=None, visible=True)

    def advanced(self, stage: str, done: int, total: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, description=stage, completed=done, total=total)

    def finished(self, stage: StagePart) -> None:
        """Writes one line for the stage: how long it took, or that nothing had changed."""
        self._progress.update(self._task, visible=False)
        took = "unchanged, kept" if stage.cached else f"{stage.seconds:.1f} s"
        memory = f"  peak {stage.peak_rss_bytes / 1e6:.0f} MB" if self._verbose else ""
        self._console.print(f"  {stage.name:<24} {took}{memory}", highlight=False)

    def bar(self, stage: str) -> ProgressCallback:
        """A ``progress(done, total)`` callback that draws one bar."""
        return bar(self, stage)

    def note(self, message: str) -> None:
        """Writes one line."""
        self._console.print(message, style="yellow", highlight=False, soft_wrap=True)

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self.note(f"warning: {message}")
