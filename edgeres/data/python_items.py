"""What the user's own object gives as an item, as a sample and its targets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.decode import decode_image
from edgeres.data.features import as_features
from edgeres.data.planes import Planes
from edgeres.data.types import Sample
from edgeres.errors import DataError, one_line
from edgeres.system.user_code import user_errors

KEPT_BYTES = 1 << 28
"""Targets up to this many bytes in all are kept, so that an item is not made again for them."""

OWN_CODE = "It is your own code."

Target = Mapping[str, NDArray[Any]]

_HINT = (
    "An item is (input, target) or input: a Pillow image, (H, W[, C]) uint8 or an array of "
    "floats, and a number, an array or a dictionary of them by head."
)


@dataclass(eq=False)
class Items:
    """The user's object, asked for one item at a time.

    Attributes:
        source: Has ``__len__`` and ``__getitem__``.
        where: ``FILE.py:FACTORY``, for messages.
        count: Its length.
    """

    source: Any
    where: str
    count: int
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _targets: dict[int, Target] = field(default_factory=dict)
    _kept: int = 0

    def name(self, row: int) -> str:
        """Of an item, for messages."""
        return f"{self.where}[{row}]"

    def read(self, row: int) -> tuple[Sample, Target]:
        """One item; one thread at a time, for nobody says that the object bears more.

        Raises:
            DataError: The object raised, or gave what is no item.
        """
        name = self.name(row)
        with self._lock, user_errors(DataError, name, OWN_CODE):
            item = self.source[row]
        pair = isinstance(item, tuple | list) and len(item) == 2
        sample = as_sample(item[0] if pair else item, name)
        target = as_target(item[1] if pair else None, name)
        self._keep(row, target)
        return sample, target

    def target(self, row: int) -> Target:
        """What is right for an item.

        Raises:
            DataError: As :meth:`read`.
        """
        known = self._targets.get(row)
        return self.read(row)[1] if known is None else known

    def _keep(self, row: int, target: Target) -> None:
        size = sum(values.nbytes for values in target.values())
        if row not in self._targets and self._kept + size <= KEPT_BYTES:
            self._targets[row] = target
            self._kept += size


def as_sample(given: Any, name: str) -> Sample:
    """An input as a sample.

    Raises:
        DataError: It is none.
    """
    if isinstance(given, Image.Image):
        return decode_image(given, name)
    try:
        array = np.asarray(given)
    except Exception as error:  # a tensor of another device, or anything else
        raise DataError(f"{name}: its input is no array: {one_line(error)}.", hint=_HINT) from error
    if array.dtype == np.uint8:
        return _image(array, name)
    return as_features(array, name)


def _image(pixels: NDArray[np.uint8], name: str) -> Sample:
    shape = pixels.shape
    if len(shape) == 3 and shape[2] == 1:
        pixels = pixels[..., 0]
    first = len(shape) == 3 and shape[0] in (1, 3) and shape[2] > 4
    if len(shape) not in (2, 3) or 0 in shape or first:
        raise DataError(
            f"{name}: expected an image (H, W) or (H, W, C) uint8, got {shape}.",
            hint="Put the channels last; features are floats." if first else _HINT,
        )
    pixels = np.ascontiguousarray(pixels)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        return Planes(pixels)
    return Image.fromarray(pixels)


def as_target(given: Any, name: str) -> Target:
    """A target, or several by head, as arrays; empty for ``None``.

    Raises:
        DataError: It is no number, or NaN.
    """
    if given is None:
        return {}
    heads = given if isinstance(given, Mapping) else {"": given}
    found: dict[str, NDArray[Any]] = {}
    for head, value in heads.items():
        label = f"{name}, target {head!r}" if head else f"{name}: its target"
        try:
            array = np.asarray(value)
        except Exception as error:  # the user's objects may raise anything
            raise DataError(f"{label} is no array: {one_line(error)}.", hint=_HINT) from error
        if array.dtype.kind not in "fiub" or (array.ndim and array.size == 0):
            raise DataError(
                f"{label}: expected a number or an array of them, got "
                f"{type(value).__name__} {array.shape} {array.dtype}.",
                hint=_HINT,
            )
        if not np.isfinite(array).all():
            raise DataError(f"{label} is NaN or infinite.", hint="Leave the sample out.")
        found[str(head)] = array
    return found


def digest_of(sample: Sample, target: Target) -> bytes:
    """SHA-256 of an item's content."""
    digest = hashlib.sha256()
    for name, values in {"": np.asarray(sample), **{f"={k}": v for k, v in target.items()}}.items():
        digest.update(repr((name, values.shape, values.dtype.str)).encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()
