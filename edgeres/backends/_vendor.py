"""Options of a backend: checked, refused, kept with the engine."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import PurePath

from edgeres.backends.base import BuildConfig
from edgeres.errors import UsageError


def read_options(
    options: Mapping[str, str], allowed: Mapping[str, tuple[str, ...]], *, backend: str
) -> dict[str, str]:
    """Reads a backend's options; one that is not given has its first allowed value.

    Args:
        options: ``BuildConfig.options``.
        allowed: Values of each option, the default first.
        backend: The backend's name, for the message.

    Raises:
        UsageError: An unknown option or value.
    """
    for name, value in options.items():
        if name not in allowed:
            raise UsageError(
                f"{backend} has no option {name!r}.",
                hint=f"It has {', '.join(sorted(allowed)) or 'none'}.",
            )
        if value not in allowed[name]:
            raise UsageError(
                f"{backend} option {name}: expected one of {', '.join(allowed[name])}, "
                f"got {value!r}."
            )
    return {name: options.get(name, values[0]) for name, values in allowed.items()}


def refuse_shapes(config: BuildConfig, *, backend: str) -> None:
    """Refuses shape ranges, for a backend whose engines take any batch size as they are.

    Raises:
        UsageError: There is a shape range.
    """
    if config.shapes:
        raise UsageError(
            f"{backend} takes no shape ranges: its engines run any batch size that the model does.",
            hint="Leave them out.",
        )


def kept_options(config: BuildConfig, paths: Set[str] = frozenset()) -> dict[str, str]:
    """The options of a build that its engine remembers: all but paths of this machine.

    A plain file name is kept: it means a file beside the engine.
    """
    return {
        name: value
        for name, value in config.options.items()
        if name not in paths or PurePath(value).name == value
    }
