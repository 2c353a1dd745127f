"""ImageNet's validation images as they are handed out: 50,000 files in one folder, no classes.

What class each shows is told by one of three files, which lie beside the images, in the folder
above, or in the unpacked devkit (``ILSVRC2012_devkit_t12/data``) in either:

``ILSVRC2012_validation_ground_truth.txt`` with ``meta.mat``
    of the devkit: numbers from 1 to 1,000 in the order of the devkit's synsets, which is not the
    order that networks are trained in. ``meta.mat`` says which synset each number is.
``LOC_val_solution.csv``
    of the Kaggle challenge: file name and synset.
``imagenet_2012_validation_synset_labels.txt``
    of TensorFlow's models: one synset a line, in the order of the files.

Classes are numbered by the sorted names of the synsets, as torchvision's folders give them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.errors import DataError
from edgeres.system.plain_files import refuse_special

CLASSES = 1000
TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
SOLUTION = "LOC_val_solution.csv"
SYNSETS = "imagenet_2012_validation_synset_labels.txt"

_IMAGE = re.compile(r"ILSVRC2012_val_(?P<number>[0-9]{8})\.JPEG", re.IGNORECASE)
_WNID = re.compile(r"n[0-9]{8}")
_DEVKIT = Path("ILSVRC2012_devkit_t12/data")
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Truth:
    """What is known of the images.

    Attributes:
        labels: Class of each file.
        class_names: In the order of the classes: the devkit's words, or the synsets.
        told_by: The file that says so.
    """

    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    told_by: Path


def are_validation_images(names: Sequence[str]) -> bool:
    """Whether all files have the names of ImageNet's validation images."""
    return bool(names) and all(_IMAGE.fullmatch(Path(name).name) for name in names)


def find_truth(folder: Path, names: Sequence[str]) -> Truth:
    """The classes of ImageNet's validation images, or of some of them.

    Args:
        folder: Where they lie.
        names: Their names.

    Raises:
        DataError: No file says them, or one that does is damaged or lacks an image.
    """
    places = [folder, folder / _DEVKIT, folder.parent, folder.parent / _DEVKIT]
    for place in places:
        if (place / TRUTH).is_file():
            return _of_devkit(place / TRUTH, _meta(place / TRUTH, places), names)
        if (place / SOLUTION).is_file():
            return _of_synsets(place / SOLUTION, _solution(place / SOLUTION), names)
        if (place / SYNSETS).is_file():
            lines = _lines(place / SYNSETS)
            by_number = {f"{n:08}": line for n, line in enumerate(lines, 1)}
            return _of_synsets(place / SYNSETS, by_number, names)
    raise DataError(
        f"Expected a folder for each class in {str(folder)!r}, got ImageNet's validation images in "
        "one folder and nothing that says their classes.",
        hint=f"Put {TRUTH} and {META} of the devkit beside them, or {SOLUTION}, or {SYNSETS}.",
    )


def _number(name: str) -> str:
    """The number in an image's name, eight digits."""
    match = _IMAGE.fullmatch(Path(name).name)
    assert match is not None
    return match["number"]


def _of_devkit(truth: Path, meta: Path, names: Sequence[str]) -> Truth:
    synsets = _devkit_synsets(meta)
    order = sorted(synsets.values())
    place = {wnid: number for number, (wnid, _) in enumerate(order)}
    labels: dict[str, int] = {}
    for line, text in enumerate(_lines(truth), 1):
        if not text.isdecimal() or int(text) not in synsets:
            raise DataError(
                f"Expected a number from 1 to {CLASSES} in line {line} of {str(truth)!r}, got "
                f"{text[:40]!r}.",
                hint="Unpack the devkit again.",
            )
        labels[f"{line:08}"] = place[synsets[int(text)][0]]
    return Truth(_each(labels, names, truth), tuple(words for _, words in order), truth)


def _of_synsets(told_by: Path, synset: dict[str, str], names: Sequence[str]) -> Truth:
    order = sorted(set(synset.values()))
    if len(order) > CLASSES or not all(_WNID.fullmatch(wnid) for wnid in order):
        raise DataError(
            f"Expected synsets such as n01440764, {CLASSES} in all, in {str(told_by)!r}, got "
            f"{len(order)}, the first {order[0][:40]!r}."
            if order
            else f"Expected synsets in {str(told_by)!r}, got an empty file.",
            hint="Download it again.",
        )
    if len(order) < CLASSES:
        raise DataError(
            f"Expected all {CLASSES} synsets in {str(told_by)!r}, got {len(order)}: their order "
            "numbers the classes.",
            hint="Download it again; it says the class of all 50,000 images.",
        )
    place = {wnid: number for number, wnid in enumerate(order)}
    labels = {number: place[wnid] for number, wnid in synset.items()}
    return Truth(_each(labels, names, told_by), tuple(order), told_by)


def _each(labels: dict[str, int], names: Sequence[str], told_by: Path) -> tuple[int, ...]:
    missing = [name for name in names if _number(name) not in labels]
    if missing:
        raise DataError(
            f"Expected a class for every image in {str(told_by)!r}, got none for {len(missing)}, "
            f"e.g. {missing[0]!r}.",
            hint="Download it again; it says the class of all 50,000 images.",
        )
    return tuple(labels[_number(name)] for name in names)


def _meta(truth: Path, places: Sequence[Path]) -> Path:
    for place in (truth.parent, *places):
        if (place / META).is_file():
            return place / META
    raise DataError(
        f"{str(truth)!r} numbers classes in the devkit's own order, and {META}, which says what "
        "they are, is not there.",
        hint=f"Put {META} of ILSVRC2012_devkit_t12 beside it.",
    )


def _devkit_synsets(meta: Path) -> dict[int, tuple[str, str]]:
    """Synset and words of each number from 1 to 1,000."""
    from scipy.io import loadmat

    refuse_special(meta, DataError)
    try:
        rows: Any = loadmat(str(meta), squeeze_me=True, struct_as_record=True)["synsets"]
        found = {
            int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"]))
            for row in rows
            if int(row["num_children"]) == 0
        }
    except Exception as error:  # what SciPy's reader raises on damaged files is not documented
        raise DataError(
            f"Expected the devkit's table of synsets at {str(meta)!r}, got a damaged file.",
            hint="Unpack the devkit again.",
        ) from error
    if sorted(found) != list(range(1, CLASSES + 1)):
        raise DataError(
            f"Expected the classes 1 to {CLASSES} in {str(meta)!r}, got {len(found)}.",
            hint="Unpack the devkit again.",
        )
    return found


def _solution(path: Path) -> dict[str, str]:
    """Synset by an image's number; the first word of the prediction string is it."""
    found = {}
    for line, row in enumerate(csv.reader(_lines(path)), 1):
        match = _IMAGE.fullmatch(f"{row[0]}.JPEG") if len(row) == 2 else None
        if match is not None and row[1].split():
            found[match["number"]] = row[1].split()[0]
        elif line > 1:
            raise DataError(
                f"Expected 'ILSVRC2012_val_NUMBER,SYNSET ...' in line {line} of {str(path)!r}, "
                f"got {','.join(row)[:40]!r}.",
                hint="Download it again.",
            )
    return found


def _lines(path: Path) -> list[str]:
    refuse_special(path, DataError)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: has more than {_MAX_BYTES:,} bytes.")
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}).", hint="Check the path.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
