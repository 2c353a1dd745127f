"""The latency table: measured times of layers on one device, as a file for people.

A table belongs to a place: a machine, a backend with its version, a precision, a number of threads
and a batch size. It holds for each layer shape a grid of widths with the milliseconds of each;
between them it interpolates. More shapes can be added to it later, from other networks.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgeres.errors import ArtefactError, one_line
from edgeres.layer_latency.shapes import LayerShape
from edgeres.system.files import write_atomic
from edgeres.system.foreign_json import read_json
from edgeres.system.plain_files import refuse_special
from edgeres.system.store import json_sha256

Precision = Literal["int8", "float16", "bfloat16", "float32"]
FORMAT = "edgeres-latency-table"
VERSION = 2
_LEAST_MS = 1e-4
"""What interpolation never goes below: no layer is free."""


@dataclass(frozen=True)
class MeasurementContext:
    """Where the times of a table hold.

    Attributes:
        backend: Name of the engine maker.
        device: ``cpu``, ``cuda:N``, ``gpu:N`` or ``npu``.
        precision: ``int8`` (Q/DQ by the backend's own rules) or ``float32``.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        batch: Images in a run.
        cpu: Model of the CPU.
        cores: CPUs that the process may use.
        isa: Its instruction sets.
        versions: Of the runtime.
        rules: How INT8 is written, as plain JSON values; empty for ``float32``.
        options: Of the build, those aside that are paths of this machine.
        shapes: Shape ranges that whole networks are built for, as plain JSON values; single layers
            have a fixed shape.
    """

    backend: str
    device: str
    precision: Precision
    threads: int | None
    batch: int
    cpu: str
    cores: int
    isa: tuple[str, ...]
    versions: Mapping[str, str]
    rules: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        """A name that is the same for equal places and differs for others."""
        return f"latency-{self.backend}-{self.precision}-{json_sha256(asdict(self))[:8]}.json"


@dataclass(frozen=True)
class ShapeTimes:
    """Times of one layer shape over a grid of widths.

    Attributes:
        inputs: Rising numbers of input channels; one alone where they cannot change.
        outputs: Rising numbers of output channels, likewise.
        ms: Milliseconds, a row for each of ``inputs``.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    @property
    def is_grid(self) -> bool:
        """Whether there is a positive time for each pair of widths, which rise."""
        return (
            len(self.ms) == len(self.inputs)
            and {len(row) for row in self.ms} == {len(self.outputs)}
            and all(list(axis) == sorted(set(axis)) for axis in (self.inputs, self.outputs))
            and all(0 < t < float("inf") for row in self.ms for t in row)
        )

    def at(self, inputs: float, outputs: float) -> float:
        """Milliseconds at any width: bilinear, and linear beyond the grid."""
        row, along = _between(self.inputs, inputs)
        column, across = _between(self.outputs, outputs)

        def in_row(index: int) -> float:
            times = self.ms[index]
            return (1 - across) * times[column] + across * times[min(column + 1, len(times) - 1)]

        low, high = in_row(row), in_row(min(row + 1, len(self.ms) - 1))
        return max(_LEAST_MS, (1 - along) * low + along * high)


@dataclass(frozen=True)
class Multiples:
    """Steps in which the device's time rises with a convolution's channels.

    Found by measuring neighbouring widths: where 72 channels take as long as 80, and 88 as 96, the
    device computes multiples of 16.
    """

    inputs: int = 8
    outputs: int = 8


@dataclass(frozen=True)
class NetworkTime:
    """A whole network, measured, beside what its layers add up to.

    Attributes:
        share: Share of all widths that it keeps.
        sum_ms: Sum over its layers, from the table.
        measured_ms: p50 of the whole network.
    """

    share: float
    sum_ms: float
    measured_ms: float


@dataclass(frozen=True)
class LatencyTable:
    """Everything that was measured at one place.

    Attributes:
        place: Where.
        multiples: Steps of the device; ``None`` before they are measured.
        probes: What they were read from: milliseconds by number of channels, for ``inputs`` and
            ``outputs``.
        shapes: Times by :attr:`LayerShape.key`.
        networks: Whole networks by the SHA-256 of their FP32 ONNX file.
    """

    place: MeasurementContext
    multiples: Multiples | None = None
    probes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shapes: Mapping[str, ShapeTimes] = field(default_factory=dict)
    networks: Mapping[str, tuple[NetworkTime, ...]] = field(default_factory=dict)

    def layer_ms(self, shape: LayerShape, inputs: int, outputs: int) -> float:
        """Milliseconds of one layer with its tail.

        Raises:
            ArtefactError: The shape was not measured.
        """
        times = self.shapes.get(shape.key)
        if times is None:
            raise ArtefactError(
                f"the latency table of {self.place.backend} has no layer '{shape.key}'.",
                hint="Measure this network's layers first.",
            )
        steps = self.multiples or Multiples()
        if len(times.inputs) > 1:
            inputs = _round_up(inputs, steps.inputs)
        if len(times.outputs) > 1:
            outputs = _round_up(outputs, steps.outputs)
        return times.at(inputs, outputs)

    def with_shape(self, shape: LayerShape, times: ShapeTimes) -> LatencyTable:
        """The same table with one more shape."""
        return replace(self, shapes={**self.shapes, shape.key: times})

    def with_network(self, sha256: str, times: Sequence[NetworkTime]) -> LatencyTable:
        """The same table with one more whole network."""
        return replace(self, networks={**self.networks, sha256: tuple(times)})

    def to_json(self) -> str:
        """The file's text: lists of numbers on one line each."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "place": {**asdict(self.place), "isa": list(self.place.isa)},
            "multiples": asdict(self.multiples) if self.multiples else None,
            "probes": {side: _rounded(times) for side, times in self.probes.items()},
            "networks": {
                sha: [_rounded(asdict(time)) for time in times]
                for sha, times in self.networks.items()
            },
        }
        head = "\n".join(f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in content.items())
        blocks = [
            f"    {json.dumps(key)}: {{\n"
            f'      "inputs": {list(times.inputs)},\n'
            f'      "outputs": {list(times.outputs)},\n'
            f'      "ms": {[[round(t, 6) for t in row] for row in times.ms]}\n    }}'
            for key, times in sorted(self.shapes.items())
        ]
        shapes = ",\n".join(blocks)
        return f'{{\n{head}\n  "shapes": {{\n{shapes}\n  }}\n}}\n'

    def save(self, path: Path) -> None:
        """Writes the table atomically.

        Raises:
            StorageError: The disk is full or the folder cannot be written.
        """
        write_atomic(path, self.to_json().encode())

    @staticmethod
    def load(path: Path) -> LatencyTable:
        """Reads a table.

        Raises:
            ArtefactError: The file is missing or no latency table.
        """
        from pydantic import TypeAdapter

        hint = "Measure it again, or name another file."
        refuse_special(path, ArtefactError)
        try:
            content = read_json(path)
            if content.pop("format") != FORMAT or content.pop("version") != VERSION:
                raise ArtefactError(f"{path}: is no latency table of this version.", hint=hint)
            table = TypeAdapter(LatencyTable).validate_python(content)
            for key, times in table.shapes.items():
                if not times.is_grid:
                    raise ValueError(f"the times of '{key}' are no grid of positive numbers")  # noqa: TRY301
        except OSError as error:
            raise ArtefactError(
                f"{path}: no latency table can be read there ({error.strerror}).", hint=hint
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(
                f"{path}: is no latency table: {one_line(error)}.", hint=hint
            ) from error
        return table


def _between(grid: Sequence[int], value: float) -> tuple[int, float]:
    """The cell of a rising grid that holds a value, and how far into it; outside, the nearest."""
    if len(grid) == 1:
        return 0, 0.0
    cell = min(max(bisect_right(grid, value) - 1, 0), len(grid) - 2)
    return cell, (value - grid[cell]) / (grid[cell + 1] - grid[cell])


def _round_up(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 6) for key, value in values.items()}
