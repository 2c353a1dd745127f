"""The objects of the stand-in: the listed members and no others; and the base of loggers."""

from __future__ import annotations

import enum
from typing import Any


class Strict:
    """An object with the listed members and no others; members without an answer are ``None``."""

    def __init__(self, kind: str, members: frozenset[str], **answers: Any) -> None:
        unknown = set(answers) - members
        assert not unknown, f"the stand-in answers {unknown}, which {kind} does not have"
        self.__dict__.update(_kind=kind, _members=members, set_values={}, **answers)

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__["_members"]:
            raise AttributeError(f"{self.__dict__['_kind']} has no {name}")
        return self.set_values.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._members:
            raise AttributeError(f"{self._kind} has no {name}")
        self.set_values[name] = value


class Logger:
    """TensorRT's logger base class, the same in all versions."""

    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4
