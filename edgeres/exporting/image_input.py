"""The input of a foreign model: which one it is, its layout, and its size where it is open.

Exporters leave height and width open where the network takes any. Engines and calibration need
one size; it is what the preprocessing gives, or what the user says. Features may have another
number of dimensions than images; what is open of their shape is what a sample has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.edit import static_shape

Layout = Literal["nchw", "nhwc"]
_CHANNELS = (1, 3, 4)
_RANKS = (2, 3, 4)
_IMAGE_RANK = 4
_LISTED = 5
_MOVES = frozenset({"Cast", "Identity", "Sub", "Add", "Mul", "Div", "Pad", "Dropout", "Clip"})


def set_image_shape(
    model: ir.Model,
    layout: Layout | None,
    image_shape: Sequence[int] | None,
    open_size: Sequence[int] | None = None,
) -> tuple[tuple[int, ...], Layout]:
    """Checks the one input, of images or of features, and fixes its size.

    Args:
        model: Its input is changed in place; initializers are no inputs any more.
        layout: As the user said it; ``None`` takes what the file looks like.
        image_shape: Shape of one sample, where it is known; it must agree with the file.
        open_size: Height and width, for a file that leaves them open; else not looked at.

    Returns:
        Shape of one sample as it is fed, and the layout.

    Raises:
        ModelError: Several inputs, no image, the other layout, or a size that is not known and was
            not given.
    """
    value = _only_input(model)
    shown = f"{value.name}: {value.type} {value.shape}"
    if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) not in _RANKS:
        raise ModelError(
            f"Expected an input of 2 to 4 dimensions and of float or 8-bit numbers, got {shown}.",
            hint="Export the network so that it takes a batch of images, (N, C, H, W) or "
            "(N, H, W, C), or of features, (N, K), (N, C, T) or (N, C, F, T).",
        )
    if next(iter(value.shape)) == 0:
        raise ModelError(
            f"Expected a batch of 1 or more, or an open one, got {shown}.",
            hint="Export it with a free batch.",
        )
    dims = [dim if isinstance(dim, int) else None for dim in list(value.shape)[1:]]
    if len(value.shape) != _IMAGE_RANK:
        return _set_features(value, dims, image_shape, open_size, shown)
    found = layout or _layout_of(value, dims)
    given = image_shape if image_shape is not None else _filled(value, dims, found, open_size)
    agrees = len(given) == 3 and all(d is None or d == g for d, g in zip(dims, given, strict=True))
    if not agrees or any(g is None or g < 1 for g in given):
        raise ModelError(
            f"Expected an image of known size, got {shown}"
            + (f" for a sample of shape {tuple(given)}." if image_shape is not None else "."),
            hint="Say the size: --input-size HEIGHT,WIDTH (`model: {input_size: [H, W]}`), or "
            "--resize or --crop, which give it.",
        )
    sample = tuple(int(g) for g in given if g is not None)
    _check_layout(sample, found, shown)
    value.shape = ir.Shape([next(iter(value.shape)), *sample])
    return sample, found


def _set_features(
    value: ir.Value,
    dims: Sequence[int | None],
    sample_shape: Sequence[int] | None,
    open_size: Sequence[int] | None,
    shown: str,
) -> tuple[tuple[int, ...], Layout]:
    """The same for features; one open dimension is as long as the width that is seen."""
    given = list(dims if sample_shape is None else sample_shape)
    if sample_shape is None and open_size is not None and given.count(None) == 1:
        given[given.index(None)] = open_size[-1]
    agrees = len(given) == len(dims) and all(
        d is None or d == g for d, g in zip(dims, given, strict=True)
    )
    sample = tuple(int(g) for g in given if g is not None and g >= 1)
    if not agrees or len(sample) != len(dims):
        raise ModelError(
            f"Expected features of known size, got {shown}"
            + (f" for a sample of shape {tuple(given)}." if sample_shape is not None else "."),
            hint="Export the network with a fixed size, where only the batch is open.",
        )
    value.shape = ir.Shape([next(iter(value.shape or ())), *sample])
    return sample, "nchw"


def _only_input(model: ir.Model) -> ir.Value:
    initializers = model.graph.initializers
    inputs = [value for value in model.graph.inputs if value.name not in initializers]
    if len(inputs) != 1:
        shown = [f"{v.name}: {v.type} {v.shape}" for v in inputs]
        more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
        raise ModelError(
            f"Expected one input, got {len(inputs)}: {', '.join(shown[:_LISTED]) or 'none'}{more}.",
            hint="Export the network with one input; other inputs become constants of the export.",
        )
    model.graph.inputs.clear()
    model.graph.inputs.append(inputs[0])
    return inputs[0]


def _layout_of(value: ir.Value, dims: Sequence[int | None]) -> Layout:
    """The layout by the place of the channels; where both would do, by what the network does."""
    first, last = dims[0] in _CHANNELS, dims[-1] in _CHANNELS
    if first != last:
        return "nchw" if first else "nhwc"
    return "nhwc" if _reaches_transpose(value) else "nchw"


def _reaches_transpose(value: ir.Value) -> bool:
    """True where a Transpose to channels first stands before any layer."""
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        for node, _ in current.uses():
            if node.op_type == "Transpose":
                return list(node.attributes.get_ints("perm", ())) == [0, 3, 1, 2]
            if node.op_type in _MOVES and node not in seen:
                seen.add(node)
                waiting += node.outputs
    return False


def _filled(
    value: ir.Value,
    dims: Sequence[int | None],
    layout: Layout,
    open_size: Sequence[int] | None,
) -> list[int | None]:
    """The sample's shape, with what is open filled in."""
    if open_size is None or None not in dims:
        return list(dims)
    channels = dims[0] if layout == "nchw" else dims[2]
    channels = channels if channels is not None else _channels_of_first_layer(value)
    height, width = open_size
    known = [channels, height, width] if layout == "nchw" else [height, width, channels]
    return [dim if dim is not None else size for dim, size in zip(dims, known, strict=True)]


def _channels_of_first_layer(value: ir.Value) -> int | None:
    waiting, seen = [value], set()
    while waiting:
        for node, index in waiting.pop().uses():
            weight = static_shape(node.inputs[1]) if node.op_type == "Conv" and not index else None
            if weight is not None:
                return weight[1] * node.attributes.get_int("group", 1)
            if node.op_type in _MOVES | {"Transpose"} and node not in seen:
                seen.add(node)
                waiting += node.outputs
    return None


def _check_layout(sample: tuple[int, ...], layout: Layout, shown: str) -> None:
    first, last = sample[0] in _CHANNELS, sample[-1] in _CHANNELS
    actual: Layout | None = "nchw" if first and not last else "nhwc" if last and not first else None
    if actual is not None and actual != layout:
        raise ModelError(
            f"Expected an image input of layout {layout}, got {shown}, which looks like {actual}.",
            hint=f"Say --layout {actual} (preprocess.layout in a recipe).",
        )
