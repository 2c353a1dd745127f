"""``tensors:PATH``: float features of any shape, already preprocessed, with what is right beside.

PATH is an ``.npz`` archive, a folder of ``.npy`` files (mapped into memory, so that they may be
larger than it), or one ``.npy`` file of inputs alone. Keys, each with a split's name in front where
there are several (``train_inputs``, ``val_targets``; in a folder also ``train/inputs.npy``):

- ``inputs``: ``(N, ...)`` of any real type, as the network takes them. Nothing is done to them.
- ``targets``, or ``targets_NAME`` for each head: ``(N,)``, ``(N, K)`` or ``(N, H, W)``.
- ``labels``: class numbers ``(N,)``; ``class_names``: their names.

A split that has no keys of its own takes the plain ones.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.arrays import MAX_CLASSES, check_class_numbers
from edgeres.data.feature_set import FeatureSet
from edgeres.data.npy import ARRAY_ERRORS, map_npy, read_member
from edgeres.data.types import SPLIT_NAMES, UNLABELLED, Split
from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special

Members = Mapping[str, Callable[[], NDArray[Any]]]

_HINT = "Write it with numpy.savez(path, inputs=..., targets=...)."


def open_tensors(path: Path, split: Split) -> FeatureSet:
    """Opens features.

    Raises:
        DataError: Missing, damaged, keys missing, Python objects, no numbers, or arrays that do not
            belong together.
    """
    if path.is_dir():
        return _open(_of_folder(path), path, split)
    refuse_special(path, DataError)
    if path.suffix == ".npy":
        return _open({"inputs": lambda: map_npy(path)}, path, split)
    try:
        with zipfile.ZipFile(path) as archive:
            return _open(_of_archive(archive, path), path, split)
    except ARRAY_ERRORS as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"Expected a NumPy archive at {str(path)!r}, got: {reason}.", hint=_HINT
        ) from error


def _of_archive(archive: zipfile.ZipFile, path: Path) -> Members:
    def reader(info: zipfile.ZipInfo) -> Callable[[], NDArray[Any]]:
        return lambda: read_member(archive, info, path)

    return {info.filename.removesuffix(".npy"): reader(info) for info in archive.infolist()}


def _of_folder(path: Path) -> Members:
    def reader(file: Path) -> Callable[[], NDArray[Any]]:
        return lambda: map_npy(file)

    files = sorted([*path.glob("*.npy"), *path.glob("*/*.npy")])
    return {"_".join(file.relative_to(path).with_suffix("").parts): reader(file) for file in files}


def _open(members: Members, path: Path, split: Split) -> FeatureSet:
    fronts = [f"{name}_" for name in SPLIT_NAMES[split]] + [""]
    front = next((front for front in fronts if f"{front}inputs" in members), None)
    if front is None:
        keys = ", ".join(map(repr, sorted(members)[:20])) or "none"
        raise DataError(
            f"Expected inputs under {' or '.join(repr(f'{f}inputs') for f in fronts)} in "
            f"{str(path)!r}, got {keys}.",
            hint=_HINT,
        )
    inputs = members[f"{front}inputs"]()
    if inputs.ndim < 2 or inputs.dtype.kind not in "fiub" or 0 in inputs.shape[1:]:
        raise DataError(
            f"Expected inputs (N, ...) of numbers under '{front}inputs' in {str(path)!r}, got "
            f"{inputs.shape} {inputs.dtype}.",
            hint="The first dimension counts the samples, the others are those of the network.",
        )
    values: dict[str, NDArray[Any]] = {}
    class_names: tuple[str, ...] = ()
    labels = np.full(len(inputs), UNLABELLED, dtype=np.int64)
    for key in sorted(members):
        name = key.removeprefix(front) if key.startswith(front) else ""
        if name in ("labels", "targets") or name.startswith("targets_"):
            target = _target(members[key](), len(inputs), key, path)
            values[name.removeprefix("targets_")] = target
            if name == "labels":
                labels = _classes(target, key, path)
                check_class_numbers(labels)
    if "labels" not in values and len(values) == 1 and _are_classes(*values.values()):
        labels = next(iter(values.values())).astype(np.int64)
    if f"{front}class_names" in members or "class_names" in members:
        key = f"{front}class_names" if f"{front}class_names" in members else "class_names"
        class_names = tuple(map(str, members[key]().ravel()))
    columns = tuple(sorted(values, key=lambda name: (name != "labels", name)))
    return FeatureSet(
        f"tensors/{split}", inputs, np.arange(len(inputs)), labels, class_names, values, columns
    )


def _target(target: NDArray[Any], count: int, key: str, path: Path) -> NDArray[Any]:
    where = f"under {key!r} in {str(path)!r}"
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    if target.dtype.kind not in "fiub" or target.ndim == 0 or 0 in target.shape[1:]:
        raise DataError(
            f"Expected numbers (N, ...) {where}, got {target.shape} {target.dtype}.",
            hint="Class numbers, 0 and 1 for several labels, numbers, or masks.",
        )
    if len(target) != count:
        raise DataError(
            f"Expected one target for each of the {count} inputs {where}, got {len(target)}.",
            hint="Check that inputs and targets come from the same split.",
        )
    if target.dtype.kind == "f":
        for row, value in enumerate(target):
            if not np.isfinite(value).all():
                raise DataError(
                    f"Expected finite targets {where}, got NaN or infinity for sample {row}.",
                    hint="Leave the sample out.",
                )
    return target


def _are_classes(target: NDArray[Any]) -> bool:
    """Whether numbers may be class numbers: taking samples class by class is then even."""
    whole = target.ndim == 1 and target.dtype.kind in "iu"
    return whole and bool(((target >= 0) & (target < MAX_CLASSES)).all())


def _classes(target: NDArray[Any], key: str, path: Path) -> NDArray[np.int64]:
    if target.ndim != 1 or target.dtype.kind not in "iu":
        raise DataError(
            f"Expected labels (N,) of an integer type under {key!r} in {str(path)!r}, got shape "
            f"{target.shape} {target.dtype}.",
            hint="One class number for each sample; other targets go under 'targets'.",
        )
    return target.astype(np.int64)
