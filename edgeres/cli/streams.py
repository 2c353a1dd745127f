"""Output that cannot be written: a full disk behind stdout, or a reader that has gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edgeres.errors import StorageError

CLOSED_PIPE = 141
"""Exit code of a command whose reader has gone, as a shell says it of other programs."""


_PRINTING = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EBADF)
"""What the system says of output that it cannot take."""


class ClosedPipe(SystemExit):
    """Nobody reads what is printed; there is nothing more to say and nobody to say it to."""

    def __init__(self) -> None:
        super().__init__(CLOSED_PIPE)


@contextmanager
def printing() -> Iterator[None]:
    """Around everything that writes to stdout or stderr.

    Raises:
        ClosedPipe: The reader has gone.
        StorageError: What is printed cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go()
        raise ClosedPipe from None
    except OSError as error:
        if error.errno not in _PRINTING:
            raise
        _let_go()
        raise StorageError(
            f"what is printed cannot be written: {os.strerror(error.errno or errno.EIO)}.",
            hint="Free some space, or send the output elsewhere.",
        ) from error


@contextmanager
def whole_output() -> Iterator[None]:
    """Around the whole program: help and errors of the command line are output too.

    Raises:
        SystemExit: With the program's exit code, 6 or :data:`CLOSED_PIPE` where it was not told.
    """
    before = _stdout()
    try:
        with printing():
            try:
                yield
            except SystemExit as ended:
                # At a closed pipe typer and rich, which write the help, let stdout go and end
                # with 1, which means that a gate failed.
                gone = not isinstance(sys.stdout, io.TextIOBase) or _stdout() != before
                if gone and ended.code == 1:
                    _let_go()
                    raise ClosedPipe from None
                sys.stdout.flush()
                raise ended from None
    except StorageError as error:
        with suppress(OSError):
            sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _stdout() -> tuple[int, int] | None:
    """What stdout leads to; ``None`` where it is no file of the system."""
    try:
        found = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _let_go() -> None:
    """What still waits to be printed goes nowhere, so that the end of Python does not try again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
