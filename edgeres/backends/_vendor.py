"""Runtimes as guests: importing one that may not be here, reading its words, checking its options.

Vendor packages fail in many ways: absent, present but with a library that does not load, or with
exceptions whose messages fill a page. Here each becomes one of edgeres's own errors, in one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Set
from pathlib import PurePath
from types import ModuleType

from edgeres.backends.base import BuildConfig
from edgeres.errors import BackendMissingError, UsageError

_LIMIT = 300


def import_runtime(module: str, *, extra: str) -> ModuleType:
    """Imports a runtime's package.

    Args:
        module: Name of the package, e.g. ``openvino``.
        extra: The extra of edgeres that installs it.

    Raises:
        BackendMissingError: It is not installed, or its native libraries do not load.
    """
    hint = f"Install it with: pip install 'edgeres[{extra}]'."
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise BackendMissingError(f"{module} is not installed.", hint=hint) from error
        raise BackendMissingError(
            f"{module} is installed but needs {error.name}, which is not.", hint=hint
        ) from error
    except (ImportError, OSError) as error:
        raise BackendMissingError(
            f"{module} is installed but does not load: {one_line(error)}.",
            hint=f"Reinstall it for this machine. {hint}",
        ) from error


def one_line(error: BaseException) -> str:
    """A vendor exception's message in one line of bounded length."""
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= _LIMIT else f"{text[: _LIMIT - 3]}..."


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
