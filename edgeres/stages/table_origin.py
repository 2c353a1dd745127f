"""What a calibration table was made from, and whether that is what a command asks for now.

A table is kept beside a quantized file and may be given to another command, so it says itself which
images it is of and how they became numbers; which model it is of it says anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.types import Dataset
from edgeres.errors import ArtefactError
from edgeres.quantization.table import CalibrationTable
from edgeres.system.files import file_sha256
from edgeres.system.stage_code import made_by

IMAGES, ASKED, PREPROCESS, CODE = "images", "samples", "preprocess", "made_by"


def origin_of(images: Dataset, preprocess: Preprocess) -> dict[str, Any]:
    """What a table that is made now is made from, as plain JSON values.

    Args:
        images: All that calibrate.
        preprocess: How an image becomes numbers.
    """
    return {
        IMAGES: images.fingerprint,
        ASKED: len(images),
        PREPROCESS: preprocess.to_dict(),
        CODE: made_by("calibrate"),
    }


def preprocess_of(table: CalibrationTable) -> Preprocess | None:
    """How the images of a table became numbers; ``None`` where it does not say."""
    told = table.made_from.get(PREPROCESS)
    return None if told is None else Preprocess.from_dict(told)


def kept_table(
    path: Path, onnx: Path, images: Dataset, preprocess: Preprocess, calibrator: str
) -> tuple[CalibrationTable | None, str]:
    """The table that an earlier command kept, if it is what a new one would be.

    Args:
        path: Where it may lie.
        onnx: The model to be calibrated.
        images: The images to calibrate with.
        preprocess: How they become numbers.
        calibrator: Whose ranges are wanted.

    Returns:
        The table or ``None``, and in words why a table that lies there cannot be used.
    """
    if not path.is_file():
        return None, ""
    try:
        table = CalibrationTable.load(path)
    except ArtefactError as error:
        return None, error.message.rstrip(".")
    why = _mismatch(table, onnx, calibrator)
    if not why and not table.made_from:
        why = "it does not say what it was made from"
    if not why:
        why = _differs(table.made_from, origin_of(images, preprocess))
    return (None, why) if why else (table, "")


def check_table(
    table: CalibrationTable,
    path: Path,
    onnx: Path,
    *,
    images: Dataset | None,
    preprocess: Preprocess | None,
    calibrator: str,
) -> None:
    """Refuses a table that was given by name and is of something else than what is asked for.

    Args:
        table: The table.
        path: Where it lies.
        onnx: The model that is to be quantized.
        images: The set that it must be of, or of the first of; ``None`` for any.
        preprocess: How images become numbers; ``None`` where nothing was said.
        calibrator: Whose ranges are wanted.

    Raises:
        ArtefactError: It is of another model, other images or another preprocessing.
    """
    why = _mismatch(table, onnx, calibrator)
    told = table.made_from
    if not why and preprocess is not None and PREPROCESS in told:
        why = _differs({PREPROCESS: told[PREPROCESS]}, {PREPROCESS: preprocess.to_dict()})
    if not why and images is not None and IMAGES in told:
        count = int(told.get(ASKED, table.samples))
        few = take(images, count) if count <= len(images) else images
        why = _differs({IMAGES: told[IMAGES]}, {IMAGES: few.fingerprint})
    if why:
        raise ArtefactError(
            f"{path}: {why}.",
            hint="Leave --table out to calibrate anew, or give what the table was made from.",
        )


def _mismatch(table: CalibrationTable, onnx: Path, calibrator: str) -> str:
    if table.model_sha256 != file_sha256(onnx):
        return f"it is of model {table.model_sha256[:12]}, not of {onnx}"
    if any(calibrator not in stats.ranges for stats in table.tensors.values()):
        return f"it has no ranges of the calibrator {calibrator}"
    return ""


def _differs(made_from: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """In words, what is different first; empty where nothing is."""
    if PREPROCESS in wanted:
        before, now = made_from.get(PREPROCESS, {}), wanted[PREPROCESS]
        for key in now:
            if before.get(key) != now[key]:
                return f"it was made with {key} {before.get(key)}, now it is {now[key]}"
    if ASKED in wanted and made_from.get(ASKED) != wanted[ASKED]:
        return f"it is of {made_from.get(ASKED)} images, now there are {wanted[ASKED]}"
    if IMAGES in wanted and made_from.get(IMAGES) != wanted[IMAGES]:
        return "it was made with other images"
    if CODE in wanted and made_from.get(CODE) != wanted[CODE]:
        return "another version of edgeres or of a library made it"
    return ""
