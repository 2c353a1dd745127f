"""What a person sees of a run: one line a stage, and warnings."""

from __future__ import annotations

import io
import time
import warnings

from rich.console import Console

from edgeres.cli.console import ConsoleListener
from edgeres.system.progress import StagePart


def told(work, text: io.StringIO | None = None, **options) -> str:
    text = text or io.StringIO()
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


def test_a_log_gets_a_line_of_the_stage_at_work_again_and_again(until):
    text = io.StringIO()

    def work(listener: ConsoleListener) -> None:
        listener.bar("prune")(25, 100)
        until(lambda: text.getvalue().count("at work") >= 3)
        listener.finished(StagePart("prune", 0.5, False, 0))
        time.sleep(0.3)  # nothing is at work: no line

    *lines, end = filter(str.strip, told(work, text, line_every_s=0.1).splitlines())
    assert end.split() == ["prune", "0.5", "s"]
    assert all("prune" in line and "25 of 100 (25 %)" in line for line in lines)
    assert lines[-1].endswith(" s left")


def test_work_of_unknown_length_is_told_too(until):
    text = io.StringIO()

    def work(listener: ConsoleListener) -> None:
        listener.started("search")
        until(text.getvalue)

    assert told(work, text, line_every_s=0.1).split()[:4] == ["search", "at", "work", "for"]


def test_a_terminal_gets_a_bar_and_no_such_lines():
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=True)
    with ConsoleListener(console, line_every_s=0.05) as listener:
        listener.bar("prune")(25, 100)
        time.sleep(0.2)
    assert "at work" not in text.getvalue()


def test_a_log_that_nobody_reads_ends_the_lines_and_nothing_else():
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            if "at work" in text:
                raise OSError(5, "the other end is gone")
            return len(text)

    with ConsoleListener(Console(file=Closed(), width=200), line_every_s=0.05) as listener:
        listener.started("prune")
        listener._lines.join(60)
        assert not listener._lines.is_alive()
