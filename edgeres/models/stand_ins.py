"""Reads a torch pickle as data: classes that it names are replaced by empty ones, none is imported.

Training code saves more than tensors: settings in classes of its own, a numpy number, a path. A
stand-in takes such an object's place, holds its fields and does nothing. Whole pickled modules
come out as stand-ins too, with their parameters in them: :mod:`edgeres.models.pickled_module`.
"""

from __future__ import annotations

import pickle
import re
import warnings
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

_MOST_CLASSES = 500
_CLASS = "stands_for"
_STATE_IS_NO_MAPPING = ("numpy.", "functools.partial")
_GLOBAL = re.compile(r"GLOBAL (\S*\w)")


def load_as_data(path: Path) -> object:
    """What ``torch.load`` gives with ``weights_only``, stand-ins in the place of unknown classes.

    Raises:
        pickle.UnpicklingError: An operation that builds no plain data, or modules that torch never
            allows (``os``, ``sys``).
        Exception: Whatever the damage of a file leads torch's reader to.
    """
    allowed: dict[str, Any] = {"argparse.Namespace": Namespace, "collections.deque": _a_list}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols and archives; refused later if unusable
        for name in _foreign_names(path):
            allowed.setdefault(name, _stand_in(name))
        while True:
            known: list[Any] = [(kind, name) for name, kind in allowed.items()]
            try:
                with torch.serialization.safe_globals(known):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                found = _GLOBAL.search(" ".join(str(error).split()))
                new = {} if found is None else _named(found[1])
                if not new.keys() - allowed.keys() or len(allowed) > _MOST_CLASSES:
                    raise
                allowed |= new


def class_of(value: object) -> str:
    """Name of the class that a stand-in takes the place of; empty for anything else."""
    return str(vars(value).get(_CLASS, "")) if type(value) is OrderedDict else ""


def _foreign_names(path: Path) -> list[str]:
    """Classes that a file names, without reading its tensors; none of one in the old format."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # the file's form or damage; loading says it better
        return []


def _named(name: str) -> dict[str, Any]:
    """Torch leaves ``builtins.`` out of its message."""
    names = [name] if "." in name else [f"builtins.{name}", f"__builtin__.{name}"]
    return {each: _stand_in(each) for each in names}


def _a_list(*arguments: Any) -> list[Any]:
    return list(arguments[0]) if arguments and isinstance(arguments[0], list | tuple) else []


def _stand_in(name: str) -> Any:
    """A class whose instances hold fields or entries, whatever the pickle has for them."""
    if name.startswith(_STATE_IS_NO_MAPPING):
        return type("Blank", (_Blank,), {})

    def new(_: type, *__: Any, **___: Any) -> OrderedDict[Any, Any]:
        made: OrderedDict[Any, Any] = OrderedDict()  # torch fills no other class
        vars(made)[_CLASS] = name
        return made

    return type("StandIn", (), {"__new__": new})


class _Blank:
    """In the place of what has no fields by name, and is of nothing here."""

    def __new__(cls, *_: Any, **__: Any) -> _Blank:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets it."""
