"""``python:FILE.py:FACTORY``: the user's own object with a length and items.

FACTORY is called in the user's own process, with ``split=`` where it takes that, and returns any
object with ``__len__`` and ``__getitem__``: a list, a ``torch.utils.data.Dataset``. What else the
object has is used: ``fingerprint`` (a text that changes with its content; else every item is read
and hashed), ``labels`` or torchvision's ``targets`` (else every item is asked for its class),
``class_names`` or torchvision's ``classes``.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.arrays import MAX_CLASSES
from edgeres.data.features import Features
from edgeres.data.masks import fit_mask
from edgeres.data.python_items import OWN_CODE, Items, digest_of
from edgeres.data.targets import Targets
from edgeres.data.types import UNLABELLED, Sample, Split
from edgeres.errors import DataError, UsageError
from edgeres.system.user_code import load_function, user_errors

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess

_SPREAD_SAMPLES = 64
_HINT = "It takes nothing, or split, and returns an object with __len__ and __getitem__."


@dataclass(frozen=True, eq=False)
class PythonSet:
    """Samples of the user's object.

    Attributes:
        name: Short name for reports.
        items: The object.
        rows: ``(N,) int64``: which of its items, in this order.
        class_names: As the object says; empty where it does not.
        code_sha256: Hash of the file that made it.
        spread: Of features, as :class:`edgeres.data.features.Features` has it.
    """

    name: str
    items: Items
    rows: NDArray[np.int64]
    class_names: tuple[str, ...]
    code_sha256: str
    spread: float

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.rows)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class of each sample where its one target is a class number, else UNLABELLED."""
        said = _said_labels(self.items)
        if said is not None:
            return said[self.rows]
        labels = [_class_of(self.items, int(row)) for row in self.rows]
        return np.array(labels, dtype=np.int64).reshape(len(self))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the code and the object's own fingerprint, or the content of all items.

        Raises:
            DataError: An item cannot be read.
        """
        digest = hashlib.sha256(repr((self.code_sha256, self.class_names)).encode())
        with user_errors(DataError, f"{self.items.where}: its fingerprint", OWN_CODE):
            said = getattr(self.items.source, "fingerprint", None)
            said = said() if callable(said) else said
            told = None if said is None else str(said)
        if told is not None:
            digest.update(repr((told, self.rows.tolist())).encode())
        else:
            for row in self.rows:
                try:
                    digest.update(digest_of(*self.items.read(int(row))))
                except DataError as error:  # left out of every pass, and counted there
                    digest.update(error.message.encode())
        return digest.hexdigest()

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the heads as the first item has them; ``("",)`` for one without a name."""
        return tuple(self.items.target(int(self.rows[0]))) if len(self) else ()

    def targets(self, rows: NDArray[np.int64], preprocess: Preprocess) -> Targets:
        """What is right for the samples at these rows.

        Raises:
            DataError: An item has no target where others have one, or one of another shape, or a
                mask of another size than its image.
        """
        found = [self._target(int(self.rows[row]), preprocess) for row in rows]
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in found[0]} if found else {}
        for row, target in zip(rows, found, strict=True):
            name = self.image_name(int(row))
            if target.keys() != parts.keys():
                raise DataError(
                    f"{name}: expected targets {_heads(parts)} as in {self.image_name(rows[0])}, "
                    f"got {_heads(target)}.",
                    hint="Give every item the same heads.",
                )
            for head, values in target.items():
                parts[head].append(values)
                if values.shape != parts[head][0].shape:
                    raise DataError(
                        f"{name}: expected a target of shape {parts[head][0].shape} as in "
                        f"{self.image_name(rows[0])}, got {values.shape}.",
                        hint="Give every item one of the same shape; masks follow resize and crop.",
                    )
        stacked = {head: _plain(np.stack(values)) for head, values in parts.items()}
        return {"": next(iter(stacked.values()))} if len(stacked) == 1 else stacked

    def image(self, index: int) -> Sample:
        """One sample.

        Raises:
            DataError: The object raised, or gave what is no item; the message names it.
        """
        sample, _ = self.items.read(int(self.rows[index]))
        return replace(sample, spread=self.spread) if isinstance(sample, Features) else sample

    def image_name(self, index: int) -> str:
        """The file, the factory and the position in its object."""
        return self.items.name(int(self.rows[index]))

    def subset(self, indices: Sequence[int]) -> PythonSet:
        """The samples at these indices, in that order."""
        return replace(self, rows=self.rows[np.asarray(indices, dtype=np.int64)])

    def _target(self, row: int, preprocess: Preprocess) -> dict[str, NDArray[Any]]:
        """Targets of one item, with masks over images in the network's size."""
        target = dict(self.items.target(row))
        for head, values in target.items():
            if values.ndim == 2 and values.dtype.kind in "iub":
                sample, _ = self.items.read(row)
                if isinstance(sample, Features):
                    continue
                if values.shape != (sample.height, sample.width):
                    raise DataError(
                        f"{self.items.name(row)}: expected a mask in the size of its image, "
                        f"{(sample.height, sample.width)}, got {values.shape}.",
                        hint="A mask lies over the whole image, before any resize.",
                    )
                target[head] = fit_mask(values.astype(np.int32), preprocess)
        return target


def open_python(text: str, split: Split) -> PythonSet:
    """Calls the user's factory.

    Args:
        text: ``FILE.py:FACTORY``.
        split: Handed on where the factory has a parameter of that name.

    Raises:
        UsageError: No such file or function, or it cannot be imported.
        DataError: The factory raised, or its object has no length, no items, or no steady ones.
    """
    file, _, factory = text.rpartition(":")
    path = Path(file).expanduser()
    if not factory or not file:
        raise UsageError(
            f"Expected python:FILE.py:FACTORY, got {f'python:{text}'!r}.",
            hint="FACTORY is a function in FILE.py that returns an object with items.",
        )
    function = load_function(path, factory)
    where = f"{path.name}:{factory}"
    with user_errors(DataError, where, _HINT):
        source = function(split=split) if _takes_split(function) else function()
        count = len(source)
        source.__getitem__  # noqa: B018
        names = _names(source)
    items = Items(source, where, count)
    _check_steady(items)
    return PythonSet(
        f"python/{split}",
        items,
        np.arange(count),
        names,
        hashlib.sha256(path.read_bytes()).hexdigest(),
        _spread(items),
    )


def _takes_split(function: Callable[..., Any]) -> bool:
    try:
        return "split" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C have none
        return False


def _check_steady(items: Items) -> None:
    """An engine and its baseline must see the same: random augmentation is no validation set."""
    if not items.count:
        return
    first, second = (digest_of(*items.read(0)) for _ in range(2))
    if first != second:
        raise DataError(
            f"{items.name(0)}: gives something else each time it is asked.",
            hint="Leave random augmentation out, or seed it by the index.",
        )


def _spread(items: Items) -> float:
    """Standard deviation of features, from samples evenly taken; 1 for images."""
    if not items.count or not isinstance(items.read(0)[0], Features):
        return 1.0
    sums = np.zeros(3)
    for row in np.unique(np.linspace(0, items.count - 1, _SPREAD_SAMPLES).astype(int)):
        try:
            values = np.asarray(items.read(int(row))[0]).astype(np.float64)
        except DataError:
            continue
        sums += values.size, values.sum(), np.square(values).sum()
    spread = float(np.sqrt(max(sums[2] / sums[0] - (sums[1] / sums[0]) ** 2, 0.0)))
    return spread if spread > 0 else 1.0


def _names(source: Any) -> tuple[str, ...]:
    said = getattr(source, "class_names", None)
    said = getattr(source, "classes", None) if said is None else said
    if isinstance(said, tuple | list) and all(isinstance(name, str) for name in said):
        return tuple(said)
    return ()


def _said_labels(items: Items) -> NDArray[np.int64] | None:
    """What the object says of all its labels at once, where that can be right."""
    for attribute in ("labels", "targets"):
        try:
            with user_errors(DataError, attribute, OWN_CODE):
                said = getattr(items.source, attribute, None)
                labels = np.asarray(said)
        except DataError:  # the items say it one by one
            continue
        if said is None or callable(said):
            continue
        if labels.shape == (items.count,) and labels.dtype.kind in "iu":
            return labels.astype(np.int64)
    return None


def _class_of(items: Items, row: int) -> int:
    try:
        target = items.target(row)
    except DataError:
        return UNLABELLED
    values = next(iter(target.values())) if len(target) == 1 else None
    if values is None or values.ndim or values.dtype.kind not in "iu":
        return UNLABELLED
    return int(values) if 0 <= int(values) < MAX_CLASSES else UNLABELLED


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        return values.astype(np.float32 if values.ndim > 2 else np.float64)
    return values.astype(np.int32 if values.ndim > 2 else np.int64)


def _heads(heads: Any) -> str:
    return ", ".join(repr(head) for head in heads) or "none"
