"""Functions from a Python file of the user's, run in the user's own process, and their errors."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from edgeres.errors import EdgeResError, EndedBySignal, UsageError, one_line


@contextmanager
def user_errors(kind: type[EdgeResError], where: str, hint: str) -> Iterator[None]:
    """Around every call into the user's code: whatever it raises becomes one line.

    An end of the process from inside (``sys.exit(0)``) counts as an error too, else it would look
    like a run that passed.

    Args:
        kind: Of the error.
        where: What is called, for the message.
        hint: What to do.

    Raises:
        EdgeResError: Of that kind.
    """
    try:
        yield
    except EndedBySignal:
        raise
    except (Exception, SystemExit) as error:
        raise kind(f"{where}: {type(error).__name__}: {one_line(error)}.", hint=hint) from error


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Imports a file and takes something callable out of it.

    The file's folder becomes the last place to import from, so that it finds its neighbours.

    Args:
        path: A Python file.
        name: Of a function or a class in it.

    Raises:
        UsageError: No such file or function, or it cannot be imported.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file.", hint="Give FILE.py:NAME.")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    loader = SourceFileLoader(f"edgeres_user_{path.stem}", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None  # this loader has one for any file
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses and pickle look for it there
    with user_errors(UsageError, f"{path}: cannot be imported", "Run it with python to see where."):
        loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"{path}: has no function {name!r}.", hint="Check its name.")
    function: Callable[..., Any] = found
    return function
