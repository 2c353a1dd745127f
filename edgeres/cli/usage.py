"""A command line that does not parse, told to a CI system as far as the line says where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from typer.exceptions import TyperException

from edgeres.cli.help import HelpCommand, HelpGroup
from edgeres.cli.outputs import check_outputs
from edgeres.cli.screen import CiTold, screen
from edgeres.errors import EdgeResError, UsageError


class CiCommand(HelpCommand):
    """A command with ``--junit`` and ``--annotations``."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """As the base; an error of the line goes into the JUnit file that the line names."""
        with _told(info_name or "", list(args)):
            return super().make_context(info_name, args, parent, **extra)


class CiGroup(HelpGroup):
    """The program itself, whose first word may be no command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base; likewise."""
        with _told(args[0] if args else "", list(args)):
            found = super().resolve_command(ctx, args)
        _, command, words = found
        if command is not None and "--help" not in words:
            name = str(command.name)
            tells = isinstance(command, CiCommand)
            junit = _junit_of(words)
            tells = tells and (junit is None or _can_be_written(junit))
            ci = CiTold(name, junit, "--annotations" in words) if tells else None
            with screen(as_json="--json" in words, debug="--debug" in words, ci=ci):
                check_outputs(name, words)
        return found


@contextmanager
def _told(command: str, args: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except TyperException as error:  # what it raises while it reads a line
        ci = CiTold(command, _junit_of(args), "--annotations" in args)
        ci.error(UsageError.error_id, error.format_message())
        raise


def _can_be_written(junit: Path) -> bool:
    """Whether a JUnit file can tell of an error; one of its own place is told on stderr only."""
    try:
        check_outputs("", ["--junit", str(junit)])
    except EdgeResError:
        return False
    return True


def _junit_of(args: Sequence[str]) -> Path | None:
    """The last ``--junit FILE`` or ``--junit=FILE``; ``None`` where there is none."""
    path = None
    for place, word in enumerate(args):
        if word == "--junit" and place + 1 < len(args):
            path = Path(args[place + 1])
        elif word.startswith("--junit="):
            path = Path(word.removeprefix("--junit="))
    return path
