"""Packages that not every installation has: imported where they are used, or a plain error."""

from __future__ import annotations

import importlib
from types import ModuleType

from edgeres.errors import BackendMissingError, one_line


def import_extra(module: str, *, extra: str, user: str = "") -> ModuleType:
    """Imports a package that an extra of edgeres installs.

    Vendor packages fail in many ways: absent, or present but with a library that does not load.

    Args:
        module: Name of the package, e.g. ``openvino``.
        extra: The extra of edgeres that installs it.
        user: What needs it, for the message.

    Raises:
        BackendMissingError: It is not installed, or its native libraries do not load.
    """
    hint = f"Install it with: pip install 'edgeres[{extra}]'."
    name = f"{user} needs {module}, which" if user else module
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (error.name == module or module.startswith(f"{error.name}.")):
            raise BackendMissingError(f"{name} is not installed.", hint=hint) from error
        raise BackendMissingError(
            f"{name} is installed but needs {error.name}, which is not.", hint=hint
        ) from error
    except (ImportError, OSError) as error:
        raise BackendMissingError(
            f"{name} is installed but does not load: {one_line(error)}.",
            hint=f"Reinstall it for this machine. {hint}",
        ) from error
