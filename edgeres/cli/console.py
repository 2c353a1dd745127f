"""What a person sees while a run goes on: one line a stage, a bar for the one at work.

Where nothing can be drawn (a file, a pipe, a CI log), the stage at work gets a line every ten
seconds. Everything goes to stderr, so ``--json`` on stdout stays clean.
"""

from __future__ import annotations

import threading
import time
import warnings
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgeres.system.closing import Closing
from edgeres.system.progress import ProgressCallback, StagePart, bar

LINE_EVERY_S = 10.0


class ConsoleListener(Closing):
    """Draws the stages of a run with rich; a context manager that also prints warnings.

    Attributes:
        told: Every note so far.

    Args:
        console: Where to.
        verbose: Whether lines of stages tell the peak of memory, too.
        line_every_s: Seconds between two lines of the stage at work, where nothing can be drawn.
    """

    def __init__(
        self, console: Console, *, verbose: bool = False, line_every_s: float = LINE_EVERY_S
    ) -> None:
        self.told: list[str] = []
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
        self._work = _Work()
        self._ended = threading.Event()
        self._lines = threading.Thread(target=self._tell, args=(line_every_s,), daemon=True)

    def __enter__(self) -> Self:
        self._catcher.__enter__()
        warnings.showwarning = self._show_warning
        self._progress.start()
        if not self._console.is_terminal:
            self._lines.start()
        return self

    def close(self) -> None:
        """Stops drawing."""
        self._ended.set()
        if self._lines.is_alive():
            self._lines.join()
        self._progress.stop()
        self._catcher.__exit__(None, None, None)

    def started(self, stage: str) -> None:
        """Shows the stage as the one at work."""
        self._work = _Work(stage)
        self._progress.reset(self._task, description=stage, total=None, visible=True)

    def advanced(self, stage: str, done: int, total: int) -> None:
        """Moves the bar."""
        self._work.done, self._work.total = done, total
        self._progress.update(self._task, description=stage, completed=done, total=total)

    def finished(self, stage: StagePart) -> None:
        """Writes one line for the stage: how long it took, or that nothing had changed."""
        self._work = _Work()
        self._progress.update(self._task, visible=False)
        took = "unchanged, kept" if stage.cached else f"{stage.seconds:.1f} s"
        memory = f"  peak {stage.peak_rss_bytes / 1e6:.0f} MB" if self._verbose else ""
        self._console.print(f"  {stage.name:<24} {took}{memory}", highlight=False)

    def bar(self, stage: str) -> ProgressCallback:
        """A ``progress(done, total)`` callback that draws one bar."""
        return bar(self, stage)

    def note(self, message: str) -> None:
        """Writes one line."""
        self.told.append(message)
        self._console.print(message, style="yellow", highlight=False, soft_wrap=True)

    def _tell(self, every_s: float) -> None:
        """Writes a line for the stage at work, again and again until the end."""
        while not self._ended.wait(every_s):
            work = self._work
            if not work.stage or work.seconds < every_s:
                continue
            try:
                self._console.print(f"  {work.stage:<24} {work}", highlight=False, soft_wrap=True)
            except OSError:  # nobody reads any more; what works at the stage finds out by itself
                return

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


class _Work:
    """How far the stage at work is; as text, what a log shows of it."""

    def __init__(self, stage: str = "") -> None:
        self.stage = stage
        self.done = self.total = 0
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def __str__(self) -> str:
        seconds, done, total = self.seconds, self.done, self.total
        told = f"at work for {_duration(seconds)}"
        if not 0 < done < total:
            return told
        left = seconds * (total - done) / done
        return f"{told}, {done} of {total} ({100 * done // total} %), {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
