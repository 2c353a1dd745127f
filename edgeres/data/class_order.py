"""The classes of a data set in the order of a network's scores.

A folder numbers its classes by the alphabet. A network that was trained on such a folder has the
same order; one from elsewhere may have another, or more classes than the folder shows. Where both
have names, names decide: labels are numbered as the network numbers them, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.types import UNLABELLED, Dataset

_LISTED = 3
_JOINTS = re.compile(r"[\s_/-]+")
_SYNSET = re.compile(r"n[0-9]{8}")


@dataclass(frozen=True)
class Ordered:
    """A data set whose classes are in the order of a network's.

    Attributes:
        dataset: The same images, with labels and class names as the network has them.
        note: What is to be said of it; empty where both agree.
        is_part: Whether it shows some of the network's classes alone.
        by_name: Whether each class has the name of one of the network's.
    """

    dataset: Dataset
    note: str = ""
    is_part: bool = False
    by_name: bool = False


def in_order_of(dataset: Dataset, names: Sequence[str]) -> Ordered:
    """The data set with its labels in the order of a network's class names.

    Labels are changed where every class of the set has the name of one of the network's. Case,
    blanks, ``_``, ``-`` and ``/`` count for nothing, and of ``tench, Tinca tinca`` either will do.

    Args:
        dataset: Labelled images of a classifier.
        names: Of the network's classes; empty where nobody says them.
    """
    own = tuple(dataset.class_names)
    if not names or own == tuple(names) or not _can_be_named(dataset):
        return Ordered(dataset)
    if not own or own == tuple(map(str, range(len(own)))):  # nobody named them
        known = len(own) in (0, len(names)) and _within(dataset.labels, len(names))
        return Ordered(_named(dataset, dataset.labels, names) if known else dataset)
    places = _places(own, names)
    if places is None:
        return _by_position(dataset, own, names)
    if places == list(range(len(names))):
        return Ordered(_named(dataset, dataset.labels, names), by_name=True)
    order = np.array([*places, UNLABELLED], dtype=np.int64)  # the last is that of no label
    is_part = len(own) < len(names)
    what = (
        f"shows {len(own)} of the network's {len(names)} classes, found by name"
        if is_part
        else "has its classes in another order than the network; they were matched by name"
    )
    renamed = _named(dataset, order[dataset.labels], names)
    return Ordered(renamed, f"{dataset.name}: {what}.", is_part, by_name=True)


def part_note(dataset: Dataset, count: int) -> str:
    """What is to be said of a set that names no classes and shows some of a network's alone."""
    if dataset.class_names or len(dataset) == 0:
        return ""
    shown = len(np.unique(dataset.labels))
    return f"{dataset.name}: shows {shown} of the network's {count} classes." * (shown < count)


def _by_position(dataset: Dataset, own: tuple[str, ...], names: Sequence[str]) -> Ordered:
    """Names that say nothing of each other: the order stands."""
    if len(own) != len(names):
        return Ordered(dataset)  # refused for its number of classes
    note = ""
    if not all(_SYNSET.fullmatch(name) for name in own):  # ImageNet's folders beside its words
        shown = ", ".join(
            f"{n!r} for {o!r}" for n, o in list(zip(names, own, strict=True))[:_LISTED]
        )
        note = (
            f"{dataset.name}: its class names are not the network's ({shown}); classes are taken "
            "by their position, which only you can know to be right."
        )
    return Ordered(_named(dataset, dataset.labels, names), note)


def _places(own: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Number of each of the set's classes in the network; ``None`` where names do not tell."""
    by_key: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        for part in {_key(name), *map(_key, name.split(","))}:
            by_key.setdefault(part, []).append(number)
    found = [by_key.get(_key(name), []) for name in own]
    if any(len(numbers) != 1 for numbers in found):
        return None
    places = [numbers[0] for numbers in found]
    return places if len(set(places)) == len(places) else None


def _key(name: str) -> str:
    return _JOINTS.sub(" ", name).strip().casefold()


def _can_be_named(dataset: Dataset) -> bool:
    """Whether labels and names of a set are values that can be replaced."""
    return is_dataclass(dataset) and {"labels", "class_names"} <= {f.name for f in fields(dataset)}


def _within(labels: NDArray[np.int64], count: int) -> bool:
    return len(labels) == 0 or int(labels.max()) < count


def _named(dataset: Any, labels: NDArray[np.int64], names: Sequence[str]) -> Dataset:
    renamed: Dataset = replace(dataset, labels=labels, class_names=tuple(names))
    return renamed
