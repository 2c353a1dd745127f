"""Where a command is told to write, looked at before it does any work."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgeres.errors import StorageError, UsageError
from edgeres.system.files import disk_errors

OPTIONS = ("--output", "--junit", "--save", "--record-conformance", "--table")
"""Options that name what is written."""
_READ_TOO = "--table"
_FOLDERS = ("convert", "tune", "train", "report")
_FILES = ("pull",)
"""Commands whose ``--output`` is a folder, or a file by exactly that name; others add an ending."""
_HINT = "Give another {}."


def check_outputs(command: str, words: Sequence[str]) -> None:
    """Refuses places that cannot be written.

    Args:
        command: Name of the command.
        words: The command line behind it.

    Raises:
        StorageError: A place cannot be written, or something is in the way.
        UsageError: The name of a place makes no sense.
    """
    for option, text in _given(words):
        if not text or "\0" in text:
            raise UsageError(f"{option}: expected a name, got {text!r}.", hint=_HINT.format(option))
        path = Path(text)
        kind = _kind(option, path)
        if option == "--output" and command in _FOLDERS:
            if kind is not None and not stat.S_ISDIR(kind):
                raise StorageError(
                    f"{path} is in the way: it is no folder.", hint="Give another --output."
                )
        elif kind is not None and stat.S_ISDIR(kind):
            if option != "--output" or command in _FILES or path.suffix:
                raise StorageError(
                    f"{path} is in the way: it is a folder, {option} names a file.",
                    hint=_HINT.format(option),
                )
        elif kind is not None and not stat.S_ISREG(kind):
            raise UsageError(f"{option}: {path} is no plain file.", hint=_HINT.format(option))
        if not (option == _READ_TOO and kind is not None):
            _try_to_write(option, path)


def _given(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, word in enumerate(words):
        option, equals, text = word.partition("=")
        if option in OPTIONS and equals:
            yield option, text
        elif word in OPTIONS and place + 1 < len(words):
            yield word, words[place + 1]


def _kind(option: str, path: Path) -> int | None:
    """What is there, as in ``st_mode``; ``None`` for nothing.

    Raises:
        StorageError: It cannot be looked at.
        UsageError: The system takes no such name.
    """
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise StorageError(f"{path}: cannot be looked at.", hint=_HINT.format(option)) from error
    except OSError as error:  # too long, a ring of links
        raise UsageError(
            f"{option}: no such name can be used ({error.strerror}): {str(path)[:60]}...",
            hint=_HINT.format(option),
        ) from error


def _try_to_write(option: str, path: Path) -> None:
    """Writes and removes a file where the output will begin, which no right to do so foretells.

    Raises:
        StorageError: It cannot be written.
    """
    whole = path.absolute()
    place = whole if whole.is_dir() else next(p for p in whole.parents if p.exists())
    with disk_errors(path):
        try:
            with tempfile.TemporaryFile(dir=place):
                pass
        except FileNotFoundError as error:  # what /proc says of a new file
            raise StorageError(f"{path} cannot be written.", hint=_HINT.format(option)) from error
