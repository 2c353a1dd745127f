"""Loaded engines that threads take and give back; closing wakes who waits, a fork is noticed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition

from edgeres.backends.base import Runner
from edgeres.errors import UsageError


class RunnerPool:
    """Runners of one engine, each used by one thread at a time.

    Args:
        runners: At least one, loaded in this process.
    """

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._all = tuple(runners)
        self._idle = list(runners)
        self._open = True
        self._process = os.getpid()
        self._changed = Condition()

    @contextmanager
    def runner(self) -> Iterator[Runner]:
        """A runner for this block; waits until one is free.

        Raises:
            UsageError: The pool is closed, or was while this waited, or this is a forked process.
        """
        self.check()
        with self._changed:
            self._changed.wait_for(lambda: self._idle or not self._open)
            if not self._open:
                raise closed()
            runner = self._idle.pop()
        try:
            yield runner
        finally:
            with self._changed:
                self._idle.append(runner)
                self._changed.notify_all()

    def check(self) -> None:
        """Refuses what could only wait for ever.

        Raises:
            UsageError: The pool is closed, or this process was forked from the one that loaded it.
        """
        if os.getpid() != self._process:  # first: a lock may have been held as it was forked
            raise UsageError(
                f"the session was opened by process {self._process}, from which this one was "
                "forked: its engine's threads are not here.",
                hint="Open the bundle in each process, or start processes with `spawn`.",
            )
        if not self._open:
            raise closed()

    def close(self) -> bool:
        """Waits for those who use a runner and frees all.

        Returns:
            Whether this call did it; a second one does nothing, nor does one in a forked process.
        """
        if os.getpid() != self._process:
            return False
        with self._changed:
            if not self._open:
                return False
            self._open = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._idle) == len(self._all))
        for runner in self._all:
            runner.close()
        return True


def closed() -> UsageError:
    """What is said of a session that is closed."""
    return UsageError("the session is closed.", hint="Open the bundle again.")
