"""Every error that edgeres raises on purpose, in one tree.

::

    EdgeResError                 base: message, hint, where; never raised itself
    +-- GateError          (1)   a check of accuracy, parity, coverage or latency failed
    +-- UsageError         (2)   a command line that makes no sense
    |   +-- RecipeError          a recipe that does not parse or validate
    +-- ModelError         (3)   a bad model, checkpoint or ONNX file
    +-- DataError          (3)   bad images, labels or calibration data
    +-- ArtefactError      (3)   a stored file that is damaged, incomplete or of another run
    +-- BackendMissingError(4)   a backend, device or driver that is not here
    +-- StageError         (5)   a stage or an engine crashed, hung or ran out of memory
    +-- StorageError       (6)   disk, lock or permission

Each error is one line for a person: what was expected, what was got and where (``message``), and
what to do next (``hint``). ``error_id`` is stable and is what ``--json`` carries.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeResError(Exception):
    """Base of all errors: one line of what and where, and a hint of what to do next."""

    exit_code: ClassVar[int] = 5
    error_id: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class GateError(EdgeResError):
    """A check of accuracy, parity, coverage or latency failed."""

    exit_code = 1
    error_id = "gate-failed"


class UsageError(EdgeResError):
    """The command line or the arguments make no sense."""

    exit_code = 2
    error_id = "usage"


class RecipeError(UsageError):
    """A recipe does not parse or does not validate; the message carries file, line and key."""

    error_id = "recipe"


class ModelError(EdgeResError):
    """A model, checkpoint or ONNX file cannot be used."""

    exit_code = 3
    error_id = "bad-model"


class DataError(EdgeResError):
    """Images, labels or calibration data cannot be used."""

    exit_code = 3
    error_id = "bad-data"


class ArtefactError(EdgeResError):
    """A stored file is damaged, incomplete or belongs to another run."""

    exit_code = 3
    error_id = "bad-artefact"


class BackendMissingError(EdgeResError):
    """A backend, device or driver is not on this machine; the hint says how to get it."""

    exit_code = 4
    error_id = "backend-missing"


class StageError(EdgeResError):
    """A stage or an engine crashed, hung or ran out of memory."""

    exit_code = 5
    error_id = "stage-failed"


class StorageError(EdgeResError):
    """The disk is full, a folder cannot be written, or another run holds the lock."""

    exit_code = 6
    error_id = "storage"


class EndedBySignal(SystemExit):
    """A signal asked the process to end; any other ``SystemExit`` comes from foreign code."""


def one_line(told: object, limit: int = 300) -> str:
    """A vendor's exception or words in one line of bounded length, without their full stop."""
    try:
        said = str(told)
    except Exception:  # an exception of somebody's own may fail to tell itself
        said = ""
    text = " ".join(said.split()).rstrip(".") or type(told).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
