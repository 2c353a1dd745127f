"""Inputs for engines that are timed without data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ModelError, UsageError
from edgeres.graph.summary import TensorSpec

_INPUTS = 8


def made_up_inputs(
    source: TensorSpec, batch_size: int, *, count: int = _INPUTS
) -> list[NDArray[np.float32]]:
    """Batches of noise in the shape that an engine takes, for timing only.

    Around zero for floats; for an engine that takes bytes whole numbers of 0 to 255, also as
    floats.

    Args:
        source: The engine's image input.
        batch_size: Images in a batch where the engine leaves the choice.
        count: Number of batches.

    Raises:
        ModelError: A size apart from the batch is not fixed.
        UsageError: The engine's batch is fixed to another number.
    """
    fixed, *sizes = source.shape
    if None in sizes:
        raise ModelError(
            f"the sizes of the input {source.name} are not fixed: {source.shape}.",
            hint="Give images with --data.",
        )
    if fixed is not None and batch_size not in (1, fixed):
        raise UsageError(
            f"the engine takes batches of {fixed}, not of {batch_size}.",
            hint=f"Use --batch-size {fixed}.",
        )
    shape = (fixed or batch_size, *(size for size in sizes if size is not None))
    noise = np.random.default_rng(0)
    if source.dtype == "uint8":
        return [noise.integers(0, 256, shape).astype(np.float32) for _ in range(count)]
    return [noise.standard_normal(shape).astype(np.float32) for _ in range(count)]
