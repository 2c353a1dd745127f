"""A network that takes pixels as they are: its preprocessing becomes part of it.

What a float input needs, ``(x * scale - mean) / std`` in the network's channel order, is done
inside, for pixels x of 0 to 255 in RGB order. Where one convolution alone reads the image, nearly
all of it goes into that convolution, and so that the borders stay right::

    x -> Pad with mean / scale -> Sub 128 -> Mul scale / std -> Conv without padding

A convolution pads with zeros, which stand for the mean; a pixel of value zero is another thing.
So each channel is padded with its own mean before the convolution, which then pads no more. What
the channels' deviations differ by goes into the weights, what their means differ from 128 by into
the bias, both in float64, rounded once. The numbers that the convolution reads are then the 256
steps of a pixel, which 8 bits hold without loss: see :mod:`edgeres.quantization.byte_input`.

Any other network has the same arithmetic at its start, one factor and one shift a channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.data.preprocess import COLOURS, Layout, Preprocess
from edgeres.exporting.parity import BATCH_SIZES, F32, Outputs, check_parity
from edgeres.graph.byte_values import MIDDLE, mark
from edgeres.graph.edit import Attribute, add_constant, constant, input_at, insert_before, only_user
from edgeres.graph.layers import load_model
from edgeres.graph.session import open_session, run_session
from edgeres.system.files import write_atomic

F64 = NDArray[np.float64]
Side = int | ir.SymbolicDim

_TURN: Mapping[Layout, tuple[int, ...]] = {"nchw": (0, 3, 1, 2), "nhwc": (0, 2, 3, 1)}
_IMAGE_RANK = 4


def write_byte_network(
    onnx: Path, out: Path, preprocess: Preprocess, layout: Layout, images: F32 | None = None
) -> None:
    """Writes a network with its preprocessing inside, and checks that both answer alike.

    Args:
        onnx: FP32 model in normal form.
        out: Where the other form goes: the same names, an input of float32 pixels of 0 to 255.
        preprocess: How an image becomes the numbers that ``onnx`` takes.
        layout: Of the input that it gets.
        images: Real pixels as the written network takes them, ``(M, C, H, W)`` or ``(M, H, W, C)
            float32``, on which both are compared, beside random ones.

    Raises:
        GateError: The two answer differently; nothing is written.
    """
    model = load_model(onnx)
    sample = _take_in(model.graph, preprocess, layout)
    mark(model)
    content = ir.to_proto(model).SerializeToString(deterministic=True)
    session = open_session(onnx.read_bytes())
    free = not isinstance(session.get_inputs()[0].shape[0], int)

    def reference(pixels: F32) -> Outputs:
        shown = pixels if layout == "nhwc" else pixels.transpose(0, 2, 3, 1)
        whole = np.rint(shown).astype(np.uint8)
        return run_session(
            session, preprocess.normalize(whole[..., 0] if preprocess.channels == 1 else whole)
        )

    check_parity(
        reference,
        content,
        sample_shape=sample,
        batch_sizes=BATCH_SIZES if free else (1,),
        images=images,
        whole=True,
    )
    write_atomic(out, content)


def _take_in(graph: ir.Graph, preprocess: Preprocess, layout: Layout) -> tuple[int, ...]:
    """Changes a graph in place; returns the shape of one sample."""
    image = graph.inputs[0]
    assert image.shape is not None
    batch, *sides = list(image.shape)
    height, width = sides[:2] if preprocess.layout == "nhwc" else sides[1:]
    shapes: dict[Layout, list[Side]] = {
        "nchw": [batch, preprocess.channels, height, width],
        "nhwc": [batch, height, width, preprocess.channels],
    }
    readers, inner = _readers(graph, image, preprocess)
    image.shape = ir.Shape(shapes[layout])
    first, value = graph[0], image
    if layout != inner:
        value = _step(first, "Transpose", [value], shapes[inner], {"perm": _TURN[inner]})
    layer = readers[0][0] if len(readers) == 1 and inner == "nchw" else None
    if layer is not None and _folds(layer, preprocess):
        value = _fold(graph, first, layer, value, shapes[inner], preprocess)
    else:
        value = _normalized(first, value, preprocess, axis=1 if inner == "nchw" else 3)
    for node, index in readers:
        node.replace_input_with(index, value)
    return tuple(side for side in shapes[layout][1:] if isinstance(side, int))


def _readers(
    graph: ir.Graph, image: ir.Value, preprocess: Preprocess
) -> tuple[list[tuple[ir.Node, int]], Layout]:
    """Who reads the image, and in which layout; a Transpose in front of all of them is removed."""
    turn = only_user(image)
    if preprocess.layout == "nchw" or turn is None or turn.op_type != "Transpose":
        return [(use.node, use.idx) for use in image.uses()], preprocess.layout
    if tuple(turn.attributes.get_ints("perm", ())) != _TURN["nchw"]:
        return [(turn, 0)], "nhwc"
    readers = [(use.node, use.idx) for use in turn.outputs[0].uses()]
    for node, index in readers:
        node.replace_input_with(index, image)
    graph.remove(turn, safe=True)
    return readers, "nchw"


def _step(
    first: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    shape: Sequence[Side],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    part: str = "",
) -> ir.Value:
    """Adds a node between the image and the first layer, under a name that tells what it is."""
    value = insert_before(first, op_type, inputs, shape, attributes)
    node = value.producer()
    assert node is not None
    node.name = f"pixels.{op_type.lower()}{part}"
    value.name = f"{node.name}.out"
    return value


def _black(preprocess: Preprocess) -> F64:
    """The pixel of each channel, in RGB order, that becomes zero."""
    mean = np.resize(np.asarray(preprocess.mean, np.float64), preprocess.channels)
    return _rgb(mean / preprocess.scale, preprocess)


def _deviation(preprocess: Preprocess) -> F64:
    return _rgb(np.resize(np.asarray(preprocess.std, np.float64), preprocess.channels), preprocess)


def _rgb(values: F64, preprocess: Preprocess) -> F64:
    return values[::-1] if preprocess.channel_order == "bgr" else values


def _folds(reader: ir.Node, preprocess: Preprocess) -> bool:
    """Whether one convolution reads the image, whose padding can be written out as pixels."""
    if reader.op_type != "Conv" or reader.attributes.get_int("group", 1) != 1:
        return False
    if reader.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    weight, bias = constant(input_at(reader, 1)), input_at(reader, 2)
    if weight is None or weight.ndim != _IMAGE_RANK or weight.shape[1] != preprocess.channels:
        return False
    if bias is not None and constant(bias) is None:
        return False
    black = _black(preprocess)
    return bool(black.min() >= 0 and black.max() <= 255)


def _fold(
    graph: ir.Graph,
    first: ir.Node,
    layer: ir.Node,
    value: ir.Value,
    shape: list[Side],
    preprocess: Preprocess,
) -> ir.Value:
    """Writes padding, shift and factor in front of a convolution and the rest into it."""
    black, deviation = _black(preprocess), _deviation(preprocess)
    common = float(deviation.mean())
    step = np.float32(preprocess.scale / common)
    weight = np.asarray(constant(input_at(layer, 1)), np.float64)
    if preprocess.channel_order == "bgr":
        weight = weight[:, ::-1]
    weight = weight * (common / deviation)[:, None, None]
    given = constant(input_at(layer, 2))
    bias = np.zeros(len(weight)) if given is None else np.asarray(given, np.float64)
    bias = bias + (weight.sum(axis=(2, 3)) * (MIDDLE - black) * np.float64(step)).sum(axis=1)
    pads = list(layer.attributes.get_ints("pads", (0, 0, 0, 0)))
    if any(pads):
        value, shape = _padded(first, value, shape, pads, black)
        layer.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    layer.resize_inputs(3)
    layer.replace_input_with(1, add_constant(layer, "weight", weight.astype(np.float32)))
    layer.replace_input_with(2, add_constant(layer, "bias", bias.astype(np.float32)))
    for name, kept in list(graph.initializers.items()):
        if not kept.uses():
            del graph.initializers[name]
    shift = add_constant(first, "pixels_shift", np.asarray(MIDDLE, np.float32))
    value = _step(first, "Sub", [value, shift], shape)
    return _step(first, "Mul", [value, add_constant(first, "pixels_step", np.asarray(step))], shape)


def _padded(
    first: ir.Node, value: ir.Value, shape: list[Side], pads: Sequence[int], black: F64
) -> tuple[ir.Value, list[Side]]:
    """The image with each channel's own value around it."""
    top, left, bottom, right = pads
    batch, *rest = shape
    channels, height, width = (side for side in rest if isinstance(side, int))
    outer = [height + top + bottom, width + left + right]
    amounts = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
    around = add_constant(first, "pixels_pads", amounts)
    values = black.astype(np.float32)
    if len(np.unique(values)) == 1:
        filled = add_constant(first, "pixels_black", np.asarray(values[0]))
        whole = [batch, channels, *outer]
        return _step(first, "Pad", [value, around, filled], whole), whole
    planes = ir.Node(
        "",
        "Split",
        [value],
        attributes=ir.convenience.convert_attributes({"axis": 1, "num_outputs": channels}),
        num_outputs=channels,
        name="pixels.split",
    )
    for number, plane in enumerate(planes.outputs):
        plane.name = f"pixels.split.out{number}"
        plane.type, plane.shape = value.type, ir.Shape([batch, 1, height, width])
    graph = first.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(first, planes)
    padded = []
    for number, plane in enumerate(planes.outputs):
        filled = add_constant(first, "pixels_black", np.asarray(values[number]))
        shown = _step(first, "Pad", [plane, around, filled], [batch, 1, *outer], part=str(number))
        padded.append(shown)
    whole = [batch, channels, *outer]
    return _step(first, "Concat", padded, whole, {"axis": 1}), whole


def _normalized(first: ir.Node, value: ir.Value, preprocess: Preprocess, *, axis: int) -> ir.Value:
    """The whole preprocessing as it is, in front of a network that takes no part of it."""
    assert value.shape is not None
    shape = list(value.shape)
    black, deviation = _black(preprocess), _deviation(preprocess)
    if preprocess.channel_order == "bgr":
        order = add_constant(first, "pixels_order", np.arange(COLOURS - 1, -1, -1, dtype=np.int64))
        value = _step(first, "Gather", [value, order], shape, {"axis": axis})
        black, deviation = black[::-1], deviation[::-1]
    across = [-1 if place == axis else 1 for place in range(_IMAGE_RANK)]
    shift = add_constant(first, "pixels_shift", black.astype(np.float32).reshape(across))
    factor = (preprocess.scale / deviation).astype(np.float32).reshape(across)
    value = _step(first, "Sub", [value, shift], shape)
    return _step(first, "Mul", [value, add_constant(first, "pixels_step", factor)], shape)
