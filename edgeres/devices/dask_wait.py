"""Waiting for dask: a scheduler or workers that die end it with a message, not with silence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from edgeres.errors import StageError
from edgeres.system.extras import import_extra
from edgeres.system.within import within

LOST_S = 30.0
"""Time for workers, or the scheduler, to come back."""
SHARD_S = 3600.0
"""Longest time without an answer to any shard."""
ASK_S = 60.0
"""Longest time for what dask should answer at once."""
_POLL_S = 1.0

T = TypeVar("T")


def ask(work: Callable[[], T], what: str) -> T:
    """What dask answers to a question.

    Args:
        work: Asks.
        what: What is asked, for the message.

    Raises:
        StageError: It does not answer in time.
    """
    try:
        return within(ASK_S, work)
    except TimeoutError as error:
        raise StageError(
            f"dask does not answer within {ASK_S:.0f} s: {what}.",
            hint="Look at the scheduler and its workers, and start them again.",
        ) from error


# What dask gives has no types, hence ``Any``.
def results_as_they_end(client: Any, futures: Sequence[Any]) -> Iterator[Any]:
    """Results of futures, each when it is there.

    Raises:
        StageError: The scheduler or all workers are gone, or nothing is answered for long.
        Exception: What a worker raised.
    """
    dask = import_extra("distributed")
    waiting, watch = set(futures), _Watch(client)
    while waiting:
        try:
            found = dask.wait(list(waiting), timeout=_POLL_S, return_when="FIRST_COMPLETED")
        except TimeoutError:
            watch.look()
        except CancelledError as error:
            raise _ended("the scheduler") from error
        else:
            waiting = set(found.not_done)
            for future in found.done:
                yield _result(future, watch)


def _result(future: Any, watch: _Watch) -> Any:
    """The result, which lies with a worker: it may be lost after it was there."""
    while True:
        try:
            found = future.result(timeout=_POLL_S)
        except TimeoutError:
            watch.look()
        except (CancelledError, OSError) as error:
            if future.status == "error":  # what the worker raised, not the connection
                raise
            raise _ended("the scheduler") from error
        else:
            watch.answered()
            return found


class _Watch:
    """Looks at who is there while nothing comes."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lost = 0.0
        self._last = time.monotonic()

    def answered(self) -> None:
        """Something came."""
        self._last, self._lost = time.monotonic(), 0.0

    def look(self) -> None:
        """Called where nothing came for a while.

        Raises:
            StageError: Nobody is there any more, or nothing came for too long.
        """
        now = time.monotonic()
        gone = self._gone()
        self._lost = (self._lost or now) if gone else 0.0
        if gone and now - self._lost > LOST_S:
            raise _ended(gone)
        if now - self._last > SHARD_S:
            raise StageError(
                f"no worker answered within {SHARD_S:.0f} s.",
                hint="Look at the workers; one may hang.",
            )

    def _gone(self) -> str:
        """What is not there any more; empty where all is well."""
        if self._client.status != "running":
            return "the scheduler"
        return "" if self._client.scheduler_info()["workers"] else "every worker"


def _ended(who: str) -> StageError:
    return StageError(
        f"{who} ended while images were still to be answered.",
        hint="Look at its memory and its log, start it again, and run the same command.",
    )
