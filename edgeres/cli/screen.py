"""Where output goes: results to stdout, everything else to stderr, an error as one line."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgeres.cli.streams import ClosedPipe, printing
from edgeres.errors import EdgeResError, EndedBySignal, StageError, StorageError, one_line
from edgeres.system.extras import missing_package
from edgeres.system.files import disk_errors, no_space
from edgeres.system.foreign_text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from edgeres.cli.console import ConsoleListener

_LONGEST = 4000
_NO_SPACE = os.strerror(errno.ENOSPC)
_INTERRUPTED = "interrupted: run the same command again to go on; what is done is kept\n"


@dataclass(frozen=True)
class CiTold:
    """What a CI system is told of a command: a JUnit file, GitHub annotations."""

    command: str
    junit: Path | None
    annotations: bool

    def begin(self) -> None:
        """Writes a JUnit file that says that the command did not end, until it does.

        So no file of an earlier run is taken for this one's, however this one is stopped.

        Raises:
            StorageError: It cannot be written.
        """
        if self.junit is not None:
            from edgeres.report.junit import ENDED, error_xml, write_junit

            text = f"edgeres {self.command} {ENDED}."
            write_junit(error_xml(self.command, "unfinished", text), self.junit)

    def error(self, kind: str, message: str) -> None:
        """Tells of an error; a file that cannot be written is told on stderr."""
        from edgeres.report.junit import tell_ci_error

        try:
            tell_ci_error(
                self.command,
                kind,
                message,
                junit=self.junit,
                annotations=self.annotations,
                say=lambda line: typer.echo(visible(line), err=True),
            )
        except (StorageError, OSError) as error:
            sys.stderr.write(f"warning: {visible(' '.join(str(error).split()))}\n")


@contextmanager
def screen(
    *, as_json: bool, verbose: bool = False, debug: bool = False, ci: CiTold | None = None
) -> Iterator[Screen]:
    """The screen of one command; turns an error into one line and its exit code.

    Args:
        as_json: Results and errors as JSON on stdout.
        verbose: Say more on stderr.
        debug: Show the traceback of an error.
        ci: What a CI system is told where the command ends without a verdict.

    Raises:
        typer.Exit: In place of an ``EdgeResError``.
    """
    try:
        with _unforeseen(), disk_errors(Path.cwd()):
            if ci is not None:
                ci.begin()
            yield Screen(as_json, verbose)
    except ClosedPipe:
        raise
    except (KeyboardInterrupt, EndedBySignal):
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write(_INTERRUPTED)
        raise
    except EdgeResError as error:
        if debug:
            traceback.print_exc()
        if as_json:
            content = {"id": error.error_id, "message": error.message, "hint": error.hint}
            print_json({"error": {**content, "exit_code": error.exit_code}})
        else:
            with suppress(OSError):  # there is nobody left to tell
                sys.stderr.write(f"error: {_short(visible(' '.join(str(error).split())))}\n")
        if ci is not None:
            ci.error(error.error_id, str(error))
        raise typer.Exit(error.exit_code) from error


@contextmanager
def _unforeseen() -> Iterator[None]:
    """Turns what nobody foresaw into a ``StageError``, so that a user gets one line of it too."""
    try:
        yield
    except (EdgeResError, typer.Exit, EndedBySignal, ClosedPipe):
        raise
    except SystemExit as error:  # with any code: 0 would look like a run that passed
        raise StageError(
            f"code that was run here ended the process (sys.exit({error.code!r})).",
            hint="Take it out of the code that you gave; --debug shows where.",
        ) from error
    except BrokenPipeError:  # of stderr
        raise ClosedPipe from None
    except MemoryError as error:
        raise StageError("out of memory.", hint="Use fewer images or a smaller batch.") from error
    except Exception as error:
        if (missing := missing_package(error)) is not None:
            raise missing from error
        if _NO_SPACE in str(error):  # of native code, which has exceptions of its own
            raise no_space(None, Path.cwd()) from error
        raise StageError(
            f"unexpected {type(error).__name__}: {one_line(error)}.",
            hint="This is a bug of edgeres; --debug shows where.",
        ) from error


class Screen:
    """What a command prints on."""

    def __init__(self, as_json: bool, verbose: bool) -> None:
        self.as_json = as_json
        self._verbose = verbose

    def listener(self) -> ConsoleListener:
        """Draws stages and progress on stderr; use it as a context manager."""
        from edgeres.cli.console import ConsoleListener

        return ConsoleListener(self._console(stderr=True), verbose=self._verbose)

    def read_above(self, listener: ConsoleListener) -> Sequence[str]:
        """Notes of a run that whoever reads its result has read: both streams go to one place."""
        try:
            return listener.told if os.path.sameopenfile(1, 2) else ()
        except OSError:  # one of them is closed
            return ()

    def result(self, content: Mapping[str, object], person: object | None = None) -> None:
        """Prints the result: JSON where asked, else what a person reads."""
        if self.as_json:
            print_json(content)
        elif person is not None:
            with printing():
                self._console(stderr=False).print(person, highlight=False, markup=False)

    def note(self, line: str) -> None:
        """Writes a line to stderr."""
        typer.echo(visible(line), err=True)

    def line(self, *lines: str) -> None:
        """Prints lines of a result that is not whole yet, at once; nothing where JSON is asked."""
        if not self.as_json:
            with printing():
                typer.echo("\n".join(visible(line) for line in lines))

    def lines(self, content: Mapping[str, object], lines: Sequence[str]) -> None:
        """Prints the result: JSON where asked, else plain lines, without loading what draws."""
        if self.as_json:
            print_json(content)
        elif lines:
            with printing():
                typer.echo("\n".join(visible(line) for line in lines))

    def console(self) -> Console:
        """Console on stdout."""
        return self._console(stderr=False)

    def _console(self, *, stderr: bool) -> Console:
        from edgeres.cli.visible_console import open_console

        return open_console(stderr=stderr)


def _short(line: str) -> str:
    """An error's line, which a name from elsewhere may have made long."""
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def print_json(content: Mapping[str, object]) -> None:
    """Prints one JSON object on stdout."""
    with printing():
        typer.echo(json.dumps(content, indent=1))
