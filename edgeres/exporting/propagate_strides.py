"""Moves strides towards the image, so that no layer computes pixels that nobody looks at.

A 1x1 convolution of stride s reads every s-th pixel of its input. ResNets as first published in
Caffe (He et al., 2015, arXiv:1512.03385) begin their stages with such convolutions, and so compute
most of the last block of a stage at four times the pixels that the next one uses. Where all readers
of a tensor take the same pixels, whatever makes the tensor may make only those:

1. A convolution or pooling window of stride p takes p s: with ``A`` the extent that its window can
   move over, ``floor(floor(A / p) / s) = floor(A / (p s))``, so it gives exactly the pixels that
   are read, for any kernel, padding, dilation and grouping. The readers' strides become 1; a 1x1
   pooling goes.
2. Element-wise operators hand the stride on to their operands. An operand that others read whole
   (the shortcut of a residual block) is sampled by a 1x1 MaxPool of stride s.

Nothing is moved where no window would take it: poolings alone would be added. The network stays the
same function, each number made of the same products. Moving is repeated until nothing changes, as a
1x1 convolution that took a stride reads every s-th pixel in its turn.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeres.graph.edit import (
    bypass,
    constant,
    data_input,
    input_at,
    insert_before,
    static_shape,
)
from edgeres.graph.shapes import infer

Stride = tuple[int, ...]
"""Of every dimension of an image: ``(rows, columns)``."""

_POOLS = ("MaxPool", "AveragePool")
_WINDOWS = ("Conv", *_POOLS)
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")
_ELEMENT_WISE = frozenset({*_ACTIVATIONS, "Add", "Sub", "Mul", "Div", "Sum", "Max", "Min"})
_PER_CHANNEL = "BatchNormalization"


class PropagateStrides(ir.passes.InPlacePass):
    """Applies the rules of this module to a graph whose shapes are known for a batch of one."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Moves strides by one window at a time until none can be moved."""
        modified = False
        while _move(model.graph):
            infer(model)  # also checks that all operands still have one size
            modified = True
        return ir.passes.PassResult(model, modified)


def _move(graph: ir.Graph) -> bool:
    """Moves every stride that can be moved over the operators before it; says if any was."""
    wanted = _wanted(graph)
    smaller = _smaller(graph, wanted)
    if not smaller:
        return False
    pooled: dict[tuple[ir.Value, Stride], ir.Value] = {}
    for node in graph:
        output = node.outputs[0]
        if _samples(node) is not None and data_input(node) in smaller:
            _set_strides(node, (1,) * len(_strides(node)))
        if output not in smaller:
            if node.op_type in _POOLS and _is_one_pixel(node) and set(_strides(node)) == {1}:
                bypass(node, data_input(node))
            continue
        stride = wanted[output]
        if _is_window(node):
            own = _strides(node)
            _set_strides(node, tuple(p * s for p, s in zip(own, stride, strict=True)))
            continue
        for index in _operands(node):
            value = node.inputs[index]
            assert value is not None
            if value not in smaller:
                if (value, stride) not in pooled:
                    pooled[value, stride] = _pool(node, value, stride)
                node.replace_input_with(index, pooled[value, stride])
    return True


def _wanted(graph: ir.Graph) -> dict[ir.Value, Stride]:
    """The stride at which each tensor is read, where all its readers read it at one above 1."""
    wanted: dict[ir.Value, Stride] = {}
    for node in reversed(graph):
        output = node.outputs[0]
        found = {_read_at(use.node, use.idx, wanted) for use in output.uses()}
        stride = found.pop() if len(found) == 1 else None
        if stride is not None and len(node.outputs) == 1 and not output.is_graph_output():
            wanted[output] = stride
    return wanted


def _read_at(node: ir.Node, index: int, wanted: Mapping[ir.Value, Stride]) -> Stride | None:
    """The stride at which a node reads one of its inputs; ``None`` where it reads all of it."""
    if index == 0 and (own := _samples(node)) is not None:
        return own
    return wanted.get(node.outputs[0]) if index in _operands(node) else None


def _smaller(graph: ir.Graph, wanted: Mapping[ir.Value, Stride]) -> set[ir.Value]:
    """The tensors that are worth making at their readers' stride: a window then does less."""
    smaller: set[ir.Value] = set()
    for node in graph:
        output = node.outputs[0]
        if output not in wanted:
            continue
        if _is_window(node):
            if _shrinks(output, wanted[output]):
                smaller.add(output)
        elif any(node.inputs[index] in smaller for index in _operands(node)):
            smaller.add(output)
    return smaller


def _operands(node: ir.Node) -> tuple[int, ...]:
    """Inputs that an element-wise operator reads at each pixel of its output; else none.

    The others must be the same for all pixels (a scale for each channel). Constants over the
    image and operands that are broadcast along one side are left alone.
    """
    shape = static_shape(node.outputs[0])
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1 or shape is None:
        return ()
    if node.op_type == _PER_CHANNEL:
        return (0,)
    if node.op_type not in _ELEMENT_WISE:
        return ()
    image = shape[2:]
    found: list[int] = []
    for index, value in enumerate(node.inputs):
        own = static_shape(value)
        if value is None:
            continue
        if own is None:
            return ()
        if len(own) == len(shape) and own[2:] == image and constant(value) is None:
            found.append(index)
        elif any(size != 1 for size in own[max(0, len(own) - len(image)) :]):
            return ()
    return tuple(found)


def _is_window(node: ir.Node) -> bool:
    """Whether a node is a window with explicit padding that can take any stride."""
    return (
        node.op_type in _WINDOWS
        and node.domain in ("", "ai.onnx")
        and len(node.outputs) == 1
        and "auto_pad" not in node.attributes
        and node.attributes.get_int("ceil_mode", 0) == 0
        and static_shape(data_input(node)) is not None
    )


def _samples(node: ir.Node) -> Stride | None:
    """The stride of a window of one pixel that leaves pixels out; ``None`` for any other node."""
    if not _is_window(node) or not _is_one_pixel(node):
        return None
    strides = _strides(node)
    return strides if any(stride > 1 for stride in strides) else None


def _is_one_pixel(window: ir.Node) -> bool:
    weight = static_shape(input_at(window, 1)) or ()
    kernel = window.attributes.get_ints("kernel_shape", weight[2:])
    return set(kernel) == {1} and not any(window.attributes.get_ints("pads", ()))


def _strides(window: ir.Node) -> Stride:
    rank = len(static_shape(data_input(window)) or ()) - 2
    return tuple(window.attributes.get_ints("strides", (1,) * rank))


def _set_strides(window: ir.Node, strides: Stride) -> None:
    window.attributes.add(ir.AttrInt64s("strides", strides))


def _shrinks(value: ir.Value, stride: Stride) -> bool:
    shape = static_shape(value)
    return shape is not None and any(
        size > 1 and step > 1 for size, step in zip(shape[2:], stride, strict=True)
    )


def _pool(node: ir.Node, value: ir.Value, stride: Stride) -> ir.Value:
    """Every s-th pixel of a tensor, by a MaxPool in front of the node that reads it."""
    shape = static_shape(value)
    assert shape is not None
    sizes = (-(-size // step) for size, step in zip(shape[2:], stride, strict=True))
    rank = len(stride)
    return insert_before(
        node,
        "MaxPool",
        [value],
        (*shape[:2], *sizes),
        {"kernel_shape": [1] * rank, "pads": [0] * (2 * rank), "strides": list(stride)},
    )
