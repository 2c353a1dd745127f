"""Hands an engine's lanes to the threads that run it, and takes them all back in the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgeres.backends.tensorrt.context import Lane
from edgeres.errors import UsageError


class LanePool:
    """Lanes, each used by one thread at a time; one more thread waits for a free one."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = tuple(lanes)
        self._free = list(lanes)
        self._open = True
        self._changed = threading.Condition()

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A free lane, for the time of the block.

        Raises:
            UsageError: The engine was closed, also while this thread waited.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or not self._open)
            if not self._open:
                raise UsageError("the engine was closed.", hint="Load it again to run it.")
            taken = self._free.pop()
        try:
            yield taken
        finally:
            with self._changed:
                self._free.append(taken)
                self._changed.notify_all()

    def close(self) -> None:
        """Waits for the runs that are under way, then closes all lanes; later ones are refused."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == len(self._lanes))
        for lane in self._lanes:
            lane.close()
