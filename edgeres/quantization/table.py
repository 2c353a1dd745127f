"""The calibration table: what the activations of one model look like, as a file for people.

A table belongs to one ONNX file (by SHA-256) and serves every rule set: it holds, per activation
tensor, plain statistics and the range that each calibrator chose. The ranges may be edited by hand
and the file used again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.calibrators import calibrator_names
from edgeres.calibrators.base import ChosenRange
from edgeres.errors import ArtefactError, DataError
from edgeres.system.files import file_sha256, write_atomic
from edgeres.system.foreign_json import parse_json
from edgeres.system.plain_files import refuse_special

_FORMAT = "edgeres-calibration-table"
_VERSION = 1


@dataclass(frozen=True)
class TensorStats:
    """Statistics of one activation tensor over all calibration images.

    Attributes:
        shape: Shape without the batch.
        low: Smallest value seen.
        high: Largest value seen.
        zeros: Share of exact zeros, in [0, 1].
        ranges: Calibrator name to the range that it chose.
        channel_mean: ``(C,) float32`` mean over images and positions; empty where no weighted
            layer reads the tensor.
        channel_square: ``(C,) float32`` mean of squares, likewise.
    """

    shape: tuple[int, ...]
    low: float
    high: float
    zeros: float
    ranges: Mapping[str, ChosenRange]
    channel_mean: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    channel_square: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def dead(self) -> bool:
        """True where the tensor was zero for every image."""
        return self.low == 0.0 and self.high == 0.0


@dataclass(frozen=True)
class CalibrationTable:
    """Statistics and ranges of all activations of one model.

    Attributes:
        model_sha256: Hash of the FP32 ONNX file that was calibrated.
        samples: Number of images.
        calibrator: The calibrator whose ranges are used unless another is asked for.
        tensors: Tensor name to statistics, in topological order.
        made_from: The images and how they became numbers, as plain JSON values
            (:mod:`edgeres.stages.table_origin`); empty where whoever calibrated did not say.
    """

    model_sha256: str
    samples: int
    calibrator: str
    tensors: Mapping[str, TensorStats]
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def range_of(self, tensor: str, calibrator: str | None = None) -> ChosenRange:
        """Range of a tensor, by the table's calibrator or by a named one.

        Raises:
            ArtefactError: The table has no such tensor or no such calibrator for it.
        """
        name = calibrator or self.calibrator
        stats = self.tensors.get(tensor)
        if stats is None or name not in stats.ranges:
            raise ArtefactError(
                f"the calibration table has no {name!r} range for tensor {tensor!r}.",
                hint="Calibrate this model again.",
            )
        return stats.ranges[name]

    def check_model(self, onnx: Path) -> None:
        """Checks that the table was made from this very file.

        Raises:
            ArtefactError: The hash differs.
        """
        digest = file_sha256(onnx)
        if digest != self.model_sha256:
            raise ArtefactError(
                f"the calibration table is of model {self.model_sha256[:12]}, not of {onnx} "
                f"({digest[:12]}).",
                hint="Calibrate this model, or give the model that the table was made from.",
            )

    def to_json(self) -> str:
        """The file's text: one line a field, lists on one line, float32 round-trip exact."""
        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "model_sha256": self.model_sha256,
            "samples": self.samples,
            "calibrator": self.calibrator,
            "made_from": dict(self.made_from),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        blocks = [_tensor_text(name, stats) for name, stats in self.tensors.items()]
        return "\n".join(["{", *lines, '  "tensors": {', ",\n".join(blocks), "  }", "}", ""])

    def save(self, path: Path) -> None:
        """Writes the table atomically.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        write_atomic(path, self.to_json().encode())

    @staticmethod
    def load(path: Path) -> CalibrationTable:
        """Reads a table.

        Raises:
            ArtefactError: The file is missing, is no calibration table, or a range is not valid.
        """
        refuse_special(path, ArtefactError)
        try:
            return CalibrationTable.from_json(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ArtefactError(
                f"the calibration table {path} cannot be read: {error}.",
                hint="Check the path, or calibrate again.",
            ) from error
        except ArtefactError as error:
            raise ArtefactError(f"{path}: {error.message}", hint=error.hint) from error

    @staticmethod
    def from_json(text: str) -> CalibrationTable:
        """Parses the text of a table.

        Raises:
            ArtefactError: It is no calibration table, or a range is not valid.
        """
        try:
            data = parse_json(text)
            if data.get("format") != _FORMAT or data.get("version") != _VERSION:
                raise _bad(f"it is not version {_VERSION} of an {_FORMAT}")
            calibrator = data["calibrator"]
            if calibrator not in calibrator_names():
                names = ", ".join(calibrator_names())
                raise _bad(f"calibrator {calibrator!r} is not one of {names}")
            tensors = {name: _tensor(name, entry) for name, entry in data["tensors"].items()}
            return CalibrationTable(
                str(data["model_sha256"]),
                int(data["samples"]),
                calibrator,
                tensors,
                dict(data["made_from"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _bad(f"{type(error).__name__}: {error}") from error


def _tensor(name: str, entry: dict[str, Any]) -> TensorStats:
    ranges = {}
    for calibrator, (low, high, magnitude) in entry["ranges"].items():
        value_range = ChosenRange(_float32(low), _float32(high), _float32(magnitude))
        finite = all(
            math.isfinite(v) for v in (value_range.low, value_range.high, value_range.magnitude)
        )
        if (
            not finite
            or not value_range.low <= 0.0 <= value_range.high
            or value_range.magnitude < 0.0
        ):
            raise _bad(
                f"tensor {name!r}, {calibrator}: [low, high, magnitude] must be finite with "
                f"low <= 0 <= high and magnitude >= 0, got {[low, high, magnitude]}"
            )
        ranges[calibrator] = value_range
    return TensorStats(
        shape=tuple(int(size) for size in entry["shape"]),
        low=_float32(entry["min"]),
        high=_float32(entry["max"]),
        zeros=_float32(entry["zeros"]),
        ranges=ranges,
        channel_mean=np.array(entry.get("channel_mean", []), np.float32),
        channel_square=np.array(entry.get("channel_square", []), np.float32),
    )


def _float32(value: float) -> float:
    """The float32 that was written, so that a table read back quantizes to the same bytes."""
    return float(np.float32(float(value)))


def _tensor_text(name: str, stats: TensorStats) -> str:
    ranges = ",\n".join(
        f"        {json.dumps(calibrator)}: {_numbers([r.low, r.high, r.magnitude])}"
        for calibrator, r in stats.ranges.items()
    )
    fields = [
        f'      "shape": {json.dumps(list(stats.shape))}',
        f'      "min": {_number(stats.low)}',
        f'      "max": {_number(stats.high)}',
        f'      "zeros": {_number(stats.zeros)}',
        f'      "ranges": {{\n{ranges}\n      }}',
    ]
    if stats.channel_mean.size:
        fields.append(f'      "channel_mean": {_numbers(stats.channel_mean)}')
        fields.append(f'      "channel_square": {_numbers(stats.channel_square)}')
    return f"    {json.dumps(name)}: {{\n" + ",\n".join(fields) + "\n    }"


def _numbers(values: NDArray[np.float32] | list[float]) -> str:
    return "[" + ", ".join(_number(float(value)) for value in values) + "]"


def _number(value: float) -> str:
    """Nine significant digits: every float32 comes back as it was."""
    if not math.isfinite(value):
        raise DataError(f"a calibration statistic is not finite: {value}.")
    return f"{value:.9g}"


def _bad(reason: str) -> ArtefactError:
    return ArtefactError(
        f"not a usable calibration table: {reason}.", hint="Correct the file or calibrate again."
    )
