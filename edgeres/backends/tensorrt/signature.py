"""What a loaded engine takes and gives, and for which shapes it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeres.backends.base import BatchLimits
from edgeres.backends.tensorrt.api import Trt
from edgeres.errors import DataError
from edgeres.graph.summary import TensorSpec

Shape = tuple[int, ...]
Shapes = tuple[Shape, ...]


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of an engine, and its optimization profiles.

    Attributes:
        inputs: In the engine's order; ``None`` where a size is dynamic.
        outputs: Likewise.
        profiles: For each profile the smallest and the largest shape of every input by name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Mapping[str, tuple[Shape, Shape]], ...]

    @property
    def is_dynamic(self) -> bool:
        """Whether any input has a size that is only known in a run."""
        return any(None in spec.shape for spec in self.inputs)

    @property
    def is_open(self) -> bool:
        """Whether another size than the batch is dynamic, so that shapes have no end."""
        return any(None in spec.shape[1:] for spec in self.inputs)

    @property
    def batch_limits(self) -> BatchLimits:
        """What all inputs take, over all profiles."""
        lows, highs = [], []
        for spec in self.inputs:
            ends = [limits[spec.name] for limits in self.profiles]
            if spec.shape:
                lows.append(min(low[0] for low, _ in ends))
                highs.append(max(high[0] for _, high in ends))
        return BatchLimits(max(lows), min(highs)) if lows else BatchLimits()

    def profile_for(self, shapes: Shapes) -> int:
        """Number of the first profile that takes these shapes of the inputs.

        Raises:
            DataError: None does.
        """
        for index, limits in enumerate(self.profiles):
            if all(
                low <= size <= high
                for spec, shape in zip(self.inputs, shapes, strict=True)
                for low, size, high in zip(*_ends(limits, spec, shape), strict=True)
            ):
                return index
        ranges = ", or ".join(
            " and ".join(
                f"{name} of shapes {low} to {high}" for name, (low, high) in limits.items()
            )
            for limits in self.profiles
        )
        raise DataError(
            f"this engine takes {ranges}, got {', '.join(map(str, shapes))}.",
            hint="Use a smaller batch, or build the engine with a larger max_batch.",
        )


def _ends(
    limits: Mapping[str, tuple[Shape, Shape]], spec: TensorSpec, shape: Shape
) -> tuple[Shape, Shape, Shape]:
    low, high = limits[spec.name]
    return low, shape, high


def read_signature(trt: Trt, cuda_engine: Any) -> Signature:
    """Asks a deserialized engine."""
    module = trt.module
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(cuda_engine.num_io_tensors):
        name = cuda_engine.get_tensor_name(index)
        shape = tuple(int(size) for size in cuda_engine.get_tensor_shape(name))
        kind = np.dtype(module.nptype(cuda_engine.get_tensor_dtype(name))).name
        spec = TensorSpec(name, tuple(None if size < 0 else size for size in shape), kind)
        is_input = cuda_engine.get_tensor_mode(name) == module.TensorIOMode.INPUT
        (inputs if is_input else outputs).append(spec)
    profiles = []
    for number in range(cuda_engine.num_optimization_profiles):
        ends = {}
        for spec in inputs:
            low, _, high = cuda_engine.get_tensor_profile_shape(spec.name, number)
            ends[spec.name] = (tuple(low), tuple(high))
        profiles.append(ends)
    return Signature(tuple(inputs), tuple(outputs), tuple(profiles))
