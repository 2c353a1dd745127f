"""Work that may never end, waited for so long and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, work: Callable[[], T]) -> T:
    """What work in a thread of its own gives.

    For work that cannot be stopped, or has no limit of its own. The thread does not keep the
    program from ending.

    Raises:
        TimeoutError: It did not end in time, and goes on by itself.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # it is raised where the outcome is asked for
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="edgeres-within").start()
    return outcome.result(timeout=seconds)
