"""The first Ctrl-C, SIGTERM or SIGHUP ends in order; the second ends at once.

Python runs its handlers between two of its own instructions. A kernel that never returns, or one
that takes minutes, keeps the first signal waiting for as long. The second is seen by a thread that
reads the signals' numbers as they come in (``signal.set_wakeup_fd``) and ends the process, since
kernels let other threads run. Nothing that was stored is lost: every file is written whole or not
at all, and children end with their parent.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from types import FrameType

from edgeres.errors import EndedBySignal

_ONE_S = 0.3
"""Signals within so many seconds are one: terminal and parent may both have sent it."""
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def end_by_signals() -> None:
    """Takes over the signals that end a program; call it once, in the main thread.

    A signal that is ignored, as ``nohup`` wants it, stays so.
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    endings = {n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    leave = _Leave()
    for number in endings:
        signal.signal(number, leave)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_count, args=(reader, endings), daemon=True).start()


class _Leave:
    """Leaves by an exception, once, so that temporaries are removed on the way out."""

    def __init__(self) -> None:
        self._leaves = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal; the next one does not disturb what the first began."""
        if self._leaves:
            return
        self._leaves = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise EndedBySignal(128 + number)


def _count(reader: socket.socket, endings: set[int]) -> None:
    """Ends the process with the second signal of these."""
    first: float | None = None
    while numbers := reader.recv(16):
        for number in endings.intersection(numbers):
            now = time.monotonic()
            if first is not None and now - first > _ONE_S:
                os._exit(128 + number)
            first = now if first is None else first
