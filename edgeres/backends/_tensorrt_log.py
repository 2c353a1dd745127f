"""Listens to TensorRT: keeps its warnings, its first error and the list of layers; can cancel.

TensorRT calls these objects from C++ code that expects no exception, so none may escape them. An
interrupt or a failure of the caller's own ``progress`` is remembered, the build is cancelled, and
:meth:`TrtLog.raise_failure` raises it when TensorRT has returned.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from edgeres.backends._tensorrt_api import Trt

_LAYERS = "Layers:"


class TrtLog(Protocol):
    """What the log keeps; the object itself is a subclass of the loaded module's ``ILogger``."""

    layer_messages: list[str]
    warnings: list[str]
    errors: list[str]
    failure: BaseException | None

    def first_error(self) -> str:
        """The first error, without the place in TensorRT's source; empty if there was none."""
        ...

    def raise_failure(self) -> None:
        """Raises what went wrong inside a callback, if anything did."""
        ...


def make_log(trt: Trt) -> TrtLog:
    """A logger for one build or one runtime; keep it as long as TensorRT's objects live."""
    module = trt.module
    severity = module.ILogger.Severity
    base: Any = module.ILogger

    class Log(base):  # type: ignore[misc]  # the base class is only known at run time
        def __init__(self) -> None:
            super().__init__()
            self.layer_messages: list[str] = []
            self.warnings: list[str] = []
            self.errors: list[str] = []
            self.failure: BaseException | None = None

        def log(self, level: Any, message: str) -> None:
            if level == severity.WARNING:
                if message.strip() not in self.warnings:
                    self.warnings.append(message.strip())
            elif level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors.append(message.strip())
            elif level == severity.VERBOSE and message.lstrip().startswith(_LAYERS):
                self.layer_messages.append(message)

        def first_error(self) -> str:
            text = self.errors[0] if self.errors else ""
            return text.partition(" In ")[0].rstrip(" .(")

        def raise_failure(self) -> None:
            if self.failure is not None:
                raise self.failure

    log: TrtLog = Log()
    return log


def make_monitor(trt: Trt, log: TrtLog, progress: Callable[[int, int], None] | None) -> Any | None:
    """Reports steps and cancels a build on Ctrl-C; ``None`` where TensorRT has no monitor (8.6).

    Args:
        trt: The imported TensorRT.
        log: Where an interrupt or a failure is remembered.
        progress: Called with (steps done, steps known so far); more become known on the way.
    """
    module = trt.module
    if not hasattr(module, "IProgressMonitor"):
        return None
    base: Any = module.IProgressMonitor

    class Monitor(base):  # type: ignore[misc]  # the base class is only known at run time
        def __init__(self) -> None:
            super().__init__()
            self.done = 0
            self.known = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.known += steps

        def step_complete(self, phase: str, step: int) -> bool:
            self.done += 1
            try:
                if progress is not None and log.failure is None:
                    progress(self.done, max(self.known, self.done))
            except BaseException as error:  # nothing may pass through TensorRT's C++
                log.failure = error
            return log.failure is None

        def phase_finish(self, phase: str) -> None:
            return None

    return Monitor()


@contextmanager
def interrupt_cancels(log: TrtLog) -> Iterator[None]:
    """While TensorRT works, Ctrl-C only leaves a note in the log, for the monitor to act on.

    Python would otherwise raise ``KeyboardInterrupt`` inside whichever callback runs next.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    def remember(number: int, frame: FrameType | None) -> None:
        log.failure = KeyboardInterrupt()

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
