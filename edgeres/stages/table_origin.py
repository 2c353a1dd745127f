"""What a calibration table was made from, and whether that is what a command asks for now.

A table is kept beside a quantized file and may be given to another command, so it says itself which
images it is of and how they became numbers; which model it is of it says anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import take
from edgeres.data.types import Dataset
from edgeres.errors import ArtefactError
from edgeres.quantization.table import CalibrationTable
from edgeres.system.files import file_sha256
from edgeres.system.stage_code import made_by
from edgeres.system.stored_json import check_stored

_HINT = "Leave --table out to calibrate anew, or give what the table was made from."


@dataclass(frozen=True)
class TableOrigin:
    """What a table says that it was made from; ``None`` where it does not say.

    Attributes:
        images: Fingerprint of all that calibrated.
        samples: How many those were.
        preprocess: How an image became numbers, as :meth:`Preprocess.to_dict` gives it.
        made_by: Code and libraries, as :func:`edgeres.system.stage_code.made_by` gives them.
    """

    images: str | None = None
    samples: int | None = None
    preprocess: Mapping[str, object] | None = None
    made_by: Mapping[str, object] | None = None

    @staticmethod
    def of(table: CalibrationTable) -> TableOrigin:
        """What a table says of itself.

        Raises:
            ArtefactError: A field is of another type.
        """
        return check_stored(
            table.made_from, TableOrigin, where="made_from of the calibration table", hint=_HINT
        )

    @staticmethod
    def now(images: Dataset, preprocess: Preprocess) -> TableOrigin:
        """What a table that is made now is made from.

        Args:
            images: All that calibrate.
            preprocess: How an image becomes numbers.
        """
        return TableOrigin(
            images.fingerprint, len(images), preprocess.to_dict(), made_by("calibrate")
        )

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {name: value for name, value in vars(self).items() if value is not None}


def preprocess_of(table: CalibrationTable) -> Preprocess | None:
    """How the images of a table became numbers; ``None`` where it does not say."""
    settings = TableOrigin.of(table).preprocess
    return None if settings is None else Preprocess.from_dict(settings)


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
        origin = TableOrigin.of(table)
    except ArtefactError as error:
        return None, error.message.rstrip(".")
    why = _mismatch(table, onnx, calibrator)
    if not why and not table.made_from:
        why = "it does not say what it was made from"
    if not why:
        why = _differs(origin, TableOrigin.now(images, preprocess))
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
    origin = TableOrigin.of(table)
    if not why and preprocess is not None and origin.preprocess is not None:
        why = _differs(origin, TableOrigin(preprocess=preprocess.to_dict()))
    if not why and images is not None and origin.images is not None:
        count = table.samples if origin.samples is None else origin.samples
        sample = take(images, count) if count <= len(images) else images
        why = _differs(origin, TableOrigin(images=sample.fingerprint))
    if why:
        raise ArtefactError(f"{path}: {why}.", hint=_HINT)


def _mismatch(table: CalibrationTable, onnx: Path, calibrator: str) -> str:
    if table.model_sha256 != file_sha256(onnx):
        return f"it is of model {table.model_sha256[:12]}, not of {onnx}"
    if any(calibrator not in stats.ranges for stats in table.tensors.values()):
        return f"it has no ranges of the calibrator {calibrator}"
    return ""


def _differs(origin: TableOrigin, now: TableOrigin) -> str:
    """In words, what of ``now`` is different first; empty where nothing is."""
    if now.preprocess is not None:
        before = origin.preprocess or {}
        for key, value in now.preprocess.items():
            if before.get(key) != value:
                return f"it was made with {key} {before.get(key)}, now it is {value}"
    if now.samples is not None and origin.samples != now.samples:
        return f"it is of {origin.samples} images, now there are {now.samples}"
    if now.images is not None and origin.images != now.images:
        return "it was made with other images"
    if now.made_by is not None and origin.made_by != now.made_by:
        return "another version of edgeres or of a library made it"
    return ""
