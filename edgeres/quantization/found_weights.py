"""INT8 weights that were found before: the files of several engines search for the same ones.

Engines differ in where Q/DQ stands and in what an activation's scale may be, seldom in what makes
the best INT8 weights of a layer. The search is most of what a further engine's file costs, so its
results are kept, by the content of everything that they are made from, while a process makes files.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 64 << 20
"""What is kept at most; the INT8 weights of a ResNet-152 fit."""


class _Sized(Protocol):
    @property
    def nbytes(self) -> int: ...


S = TypeVar("S", bound=_Sized)


class FoundWeights:
    """Results by key; the one that was not asked for longest goes first.

    Args:
        most_bytes: Of all results together; a larger one is not kept.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], S]) -> S:
        """The result of this key; made where there is none, by each thread that finds none."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                kept: S = self._kept[key]
                return kept
        made = make()
        with self._lock:
            if key not in self._kept and made.nbytes <= self._most:
                self._kept[key] = made
                self._bytes += made.nbytes
            while self._bytes > self._most:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def content_of(*parts: NDArray[Any] | str | float | tuple[Any, ...] | None) -> str:
    """Hash of arrays, their shapes and types, and of plain values, in order."""
    hashed = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, np.ndarray):
            hashed.update(f"{part.dtype}{part.shape}".encode())
            hashed.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
        else:
            hashed.update(repr(part).encode())
        hashed.update(b"\0")
    return hashed.hexdigest()
