"""Inference servers by name: each module writes the model repository that its server documents."""

from __future__ import annotations

import importlib
import pkgutil

from edgeres.backends.serving._model import ServedModel, Server
from edgeres.errors import UsageError

__all__ = ["ServedModel", "Server", "get_server", "server_names"]


def server_names() -> tuple[str, ...]:
    """Names of all servers, as after ``--serve``."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name.replace("_", "-") for name in names if not name.startswith("_")))


def get_server(name: str) -> Server:
    """The server of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in server_names():
        raise UsageError(
            f"there is no server {name!r}.", hint=f"Choose one of: {', '.join(server_names())}."
        )
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    server: Server = module.SERVER
    return server
