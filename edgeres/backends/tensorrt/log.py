"""Listens to TensorRT: keeps its warnings, its first error and the list of layers.

TensorRT calls these objects from C++ code that expects no exception, so none may escape them.
"""

from __future__ import annotations

from typing import Any, Protocol

from edgeres.backends.tensorrt.api import Trt
from edgeres.system.progress import ProgressCallback

_LAYERS = "Layers:"


class TrtLog(Protocol):
    """What the log keeps; the object itself is a subclass of the loaded module's ``ILogger``."""

    layer_messages: list[str]
    warnings: list[str]
    errors: list[str]

    def first_error(self) -> str:
        """The first error, without the place in TensorRT's source; empty if there was none."""
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

    log: TrtLog = Log()
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
