"""Optimization profiles: for which input shapes an engine is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgeres.backends.base import ShapeRange
from edgeres.backends.tensorrt.dla import refuse_ranges
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import StageError, UsageError

_DYNAMIC = -1


Ranges = Mapping[str, ShapeRange]


def add_profiles(
    builder: Any,
    network: Any,
    builder_config: Any,
    options: TensorRTOptions,
    shapes: Ranges,
) -> list[Ranges]:
    """Adds the profiles for all inputs with a dynamic dimension; a static network needs none.

    Returns:
        For each profile the ranges that it is made for, by input name.

    Raises:
        UsageError: A range for an input that is not there, one that does not fit the input, a
            dynamic dimension other than the batch without a range, or a batch size to choose
            kernels for that no input takes.
        StageError: TensorRT refused a profile.
    """
    inputs = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        inputs[tensor.name] = tuple(int(size) for size in tensor.shape)
    ranges = choose_ranges(inputs, options, shapes)
    if options.dla_core is not None:
        refuse_ranges(ranges)
    if not ranges:
        return []
    profiles = split_ranges(ranges, options.opt_batch)
    for chosen in profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in chosen.items():
            profile.set_shape(name, sizes.min, sizes.opt, sizes.max)
        if builder_config.add_optimization_profile(profile) < 0:
            raise StageError(f"TensorRT refused the shapes {chosen}.")
    return profiles


def split_ranges(ranges: Ranges, batches: Sequence[int]) -> list[Ranges]:
    """One profile for each batch size that kernels are to be chosen for.

    Each begins behind the one before and ends with its batch size, the last with the largest batch.

    Args:
        ranges: What all profiles together take.
        batches: The batch sizes in rising order; of one alone the ranges say more.

    Raises:
        UsageError: A batch size outside of a range.
    """
    if len(batches) == 1:
        return [ranges]
    profiles: list[Ranges] = []
    for index, batch in enumerate(batches):
        chosen = {}
        for name, sizes in ranges.items():
            least, most = sizes.min[0], sizes.max[0]
            if not least <= batch <= most:
                raise UsageError(
                    f"opt_batch {batch} lies outside of the batches that input {name!r} takes, "
                    f"{least} to {most}.",
                    hint="Leave it out of opt_batch, or widen the range.",
                )
            low = batches[index - 1] + 1 if index else least
            high = batch if index + 1 < len(batches) else most
            chosen[name] = ShapeRange(
                (low, *sizes.min[1:]), (batch, *sizes.opt[1:]), (high, *sizes.max[1:])
            )
        profiles.append(chosen)
    return profiles


def widest(profiles: Sequence[Ranges]) -> dict[str, ShapeRange]:
    """What all profiles together take, by input name; the usual shape is the first profile's."""
    if not profiles:
        return {}
    first, last = profiles[0], profiles[-1]
    return {name: ShapeRange(sizes.min, sizes.opt, last[name].max) for name, sizes in first.items()}


def opt_batches(profiles: Sequence[Ranges]) -> tuple[int, ...]:
    """The batch size that each profile's kernels are chosen for; none where the batch is fixed."""
    ends = widest(profiles).values()
    if not any(sizes.min[0] != sizes.max[0] for sizes in ends):
        return ()
    return tuple(max(sizes.opt[0] for sizes in ranges.values()) for ranges in profiles)


def choose_ranges(
    inputs: Mapping[str, tuple[int, ...]],
    options: TensorRTOptions,
    shapes: Ranges,
) -> dict[str, ShapeRange]:
    """The shape range of every dynamic input.

    Args:
        inputs: Input name to shape, -1 where a dimension is dynamic.
        options: Gives the batch sizes where no range is given.
        shapes: Ranges that were asked for.

    Raises:
        UsageError: See :func:`add_profiles`.
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
        usual, most = options.opt_batch[0], options.max_batch
        least = most if options.dla_core is not None else 1
        ranges[name] = shapes.get(name) or ShapeRange(
            (least, *shape[1:]), (usual, *shape[1:]), (most, *shape[1:])
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
