"""What a person sees of a run: one line a stage, and warnings."""

from __future__ import annotations

import io
import warnings

from rich.console import Console

from edgeres.cli.console import ConsoleListener
from edgeres.system.progress import StagePart


def told(work, **options) -> str:
    text = io.StringIO()
    with ConsoleListener(Console(file=text, width=200), **options) as listener:
        work(listener)
    return text.getvalue()


def test_a_stage_that_was_found_is_told_as_kept():
    part = StagePart("build", 1.25, True, 3_000_000)
    assert "build" in (line := told(lambda out: out.finished(part)))
    assert "unchanged, kept" in line
    assert "peak" not in line
    new = StagePart("build", 1.25, False, 3_000_000)
    assert "1.2 s  peak 3 MB" in told(lambda out: out.finished(new), verbose=True)


def test_a_bar_is_a_callback():
    def work(listener: ConsoleListener) -> None:
        progress = listener.bar("calibrate")
        progress(3, 10)
        (task,) = listener._progress.tasks
        assert (task.description, task.completed, task.total) == ("calibrate", 3, 10)

    told(work)


def test_warnings_are_lines_while_it_draws():
    def work(_: ConsoleListener) -> None:
        warnings.simplefilter("default")  # tests make errors of them
        warnings.warn("the lock is old", UserWarning, stacklevel=1)

    assert "warning: the lock is old" in told(work)
