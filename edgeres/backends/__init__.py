"""Backends by name. Only the module that is asked for is imported."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

from edgeres.backends.base import Backend
from edgeres.errors import UsageError

_NOT_TARGETS = {"null", "pytorch"}  # one measures overhead, the other is the reference


def backend_names() -> tuple[str, ...]:
    """Names of all backends: the folders here that hold a ``backend.py``. Imports none of them."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    return tuple(sorted(name for name in names if _is_backend(name)))


def _is_backend(name: str) -> bool:
    return importlib.util.find_spec(f"{__name__}.{name}.backend") is not None


def target_names() -> tuple[str, ...]:
    """Names of the backends that a network can be converted for: what ``all`` means."""
    return tuple(name for name in backend_names() if name not in _NOT_TARGETS)


def get_backend(name: str) -> Backend:
    """Imports one backend module and returns its ``BACKEND``; does not import its runtime.

    Raises:
        UsageError: No backend has that name.
    """
    if name not in backend_names():
        raise UsageError(
            f"there is no backend {name!r}.", hint=f"Choose one of: {', '.join(backend_names())}."
        )
    backend: Backend = importlib.import_module(f"edgeres.backends.{name}.backend").BACKEND
    return backend
