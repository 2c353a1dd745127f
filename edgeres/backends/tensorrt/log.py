"""Listens to TensorRT: its warnings, its errors and the list of layers.

TensorRT keeps the first logger that a process gives it and sends there what belongs to no object
of its own, so there is one logger for each TensorRT that is loaded, which lives as long as the
process. Who wants to hear something listens for the time of his own work. TensorRT calls these
objects from C++ code that expects no exception, so none may escape them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgeres.backends.tensorrt.api import Trt
from edgeres.system.progress import ProgressCallback

_LAYERS = "Layers:"
_lock = threading.Lock()


@dataclass
class Heard:
    """What TensorRT said while someone listened.

    Attributes:
        thread: Who listens. What TensorRT says in a thread of its own is for all who listen.
        layer_messages: Messages that hold the list of layers.
        warnings: Each once, in order.
        errors: In order.
    """

    thread: int = field(default_factory=threading.get_ident)
    layer_messages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """The first error, without the place in TensorRT's source."""
        text = self.errors[0] if self.errors else "no reason given"
        return text.partition(" In ")[0].rstrip(" .(")


class ProcessLog(Protocol):
    """The logger; the object itself is a subclass of the loaded module's ``ILogger``."""

    listeners: list[Heard]


def process_log(trt: Trt) -> ProcessLog:
    """The one logger of this process for that TensorRT."""
    with _lock:
        return _make_log(trt)


@contextmanager
def listening(trt: Trt) -> Iterator[Heard]:
    """Collects what TensorRT says to this thread as long as the block lasts."""
    log, heard = process_log(trt), Heard()
    with _lock:
        log.listeners = [*log.listeners, heard]
    try:
        yield heard
    finally:
        with _lock:
            log.listeners = [other for other in log.listeners if other is not heard]


@functools.cache
def _make_log(trt: Trt) -> ProcessLog:
    module = trt.module
    severity = module.ILogger.Severity
    base: Any = module.ILogger

    class Log(base):  # type: ignore[misc]  # the base class is only known at run time
        def __init__(self) -> None:
            super().__init__()
            self.listeners: list[Heard] = []

        def log(self, level: Any, message: str) -> None:
            here = threading.get_ident()
            listeners = self.listeners
            for heard in [one for one in listeners if one.thread == here] or listeners:
                if level == severity.WARNING:
                    if message.strip() not in heard.warnings:
                        heard.warnings.append(message.strip())
                elif level in (severity.ERROR, severity.INTERNAL_ERROR):
                    heard.errors.append(message.strip())
                elif level == severity.VERBOSE and message.lstrip().startswith(_LAYERS):
                    heard.layer_messages.append(message)

    log: ProcessLog = Log()
    return log


def make_monitor(trt: Trt, progress: ProgressCallback | None) -> Any | None:
    """Reports the steps of a build; ``None`` where TensorRT has no monitor (8.6).

    Args:
        trt: The imported TensorRT.
        progress: Called with (steps done, steps known so far); more become known on the way. It
            may not raise.
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
            if progress is not None:
                progress(self.done, max(self.known, self.done))
            return True  # go on

        def phase_finish(self, phase: str) -> None:
            return None

    return Monitor()
