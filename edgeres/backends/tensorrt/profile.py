"""Optimization profiles: for which input shapes an engine is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeres.backends.base import ShapeRange
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import StageError, UsageError

_DYNAMIC = -1


def batch_profile(
    builder: Any,
    network: Any,
    builder_config: Any,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
) -> dict[str, ShapeRange]:
    """Adds one profile for all inputs with a dynamic dimension; a static network needs none.

    Returns:
        The ranges that the engine is made for, by input name.

    Raises:
        UsageError: A range for an input that is not there, one that does not fit the input, or a
            dynamic dimension other than the batch without a range.
        StageError: TensorRT refused the profile.
    """
    inputs = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        inputs[tensor.name] = tuple(int(size) for size in tensor.shape)
    ranges = choose_ranges(inputs, options, shapes)
    if not ranges:
        return {}
    profile = builder.create_optimization_profile()
    for name, chosen in ranges.items():
        profile.set_shape(name, chosen.min, chosen.opt, chosen.max)
    if builder_config.add_optimization_profile(profile) < 0:
        raise StageError(f"TensorRT refused the shapes {ranges}.")
    return ranges


def choose_ranges(
    inputs: Mapping[str, tuple[int, ...]],
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
) -> dict[str, ShapeRange]:
    """The shape range of every dynamic input.

    Args:
        inputs: Input name to shape, -1 where a dimension is dynamic.
        options: Gives the batch sizes where no range is given.
        shapes: Ranges that were asked for.

    Raises:
        UsageError: See :func:`batch_profile`.
    """
    for name in shapes:
        if name not in inputs:
            raise UsageError(
                f"a shape range names the input {name!r}, the model has {', '.join(inputs)}.",
                hint="Use the input's name.",
            )
    ranges = {}
    for name, shape in inputs.items():
        if name in shapes:
            _check_range(name, shape, shapes[name])
        if _DYNAMIC not in shape:
            continue
        if name not in shapes and _DYNAMIC in shape[1:]:
            raise UsageError(
                f"input {name!r} of shape {_text(shape)} has a dynamic dimension besides the "
                "batch and no shape range.",
                hint="Give its smallest, usual and largest shape.",
            )
        ranges[name] = shapes.get(name) or ShapeRange(
            (1, *shape[1:]), (options.opt_batch, *shape[1:]), (options.max_batch, *shape[1:])
        )
    return ranges


def _check_range(name: str, shape: tuple[int, ...], chosen: ShapeRange) -> None:
    sizes = (chosen.min, chosen.opt, chosen.max)
    if any(len(size) != len(shape) for size in sizes):
        raise UsageError(
            f"the shape range of input {name!r} has {len(chosen.opt)} dimensions, "
            f"the input {_text(shape)} has {len(shape)}.",
            hint="Give every dimension, the batch first.",
        )
    for axis, fixed in enumerate(shape):
        low, usual, high = (size[axis] for size in sizes)
        if not 1 <= low <= usual <= high:
            raise UsageError(
                f"the shape range of input {name!r} in dimension {axis} is {low}, {usual}, {high}; "
                "expected 1 <= min <= opt <= max.",
                hint="Put the sizes in order.",
            )
        if fixed != _DYNAMIC and (low, high) != (fixed, fixed):
            raise UsageError(
                f"the shape range of input {name!r} in dimension {axis} is {low} to {high}, "
                f"but the model fixes it at {fixed}.",
                hint=f"Say {fixed}, or export the model with that dimension dynamic.",
            )


def _text(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join("?" if size == _DYNAMIC else str(size) for size in shape) + ")"
