"""Which layers a network is made of, as far as their time is concerned.

A layer is a convolution or matrix product together with the operations behind it that an engine
folds into it or runs over its output: a residual sum, a rectifier, a pooling. Two layers of one
shape differ in their channels only, so they share one table of measured times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.layers import (
    consumers,
    inputs,
    layer_of,
    load_model,
    node_name,
    value_name,
)
from edgeres.graph.summary import sample_shapes
from edgeres.quantization.placement import depths, skip_input

ADD, RELU = "add", "relu"


@dataclass(frozen=True)
class LayerShape:
    """Everything that decides a layer's time, apart from its channels.

    Attributes:
        op: ``Conv`` or ``Gemm`` (which stands for ``MatMul`` too).
        size: Height and width of the input in pixels; ``(1, 1)`` for a Gemm.
        kernel: Height and width of the kernel.
        strides: Likewise.
        pads: Top, left, bottom, right.
        unit: Channels of one convolution group, 0 without groups.
        tail: What follows, in order: ``add``, ``relu``, ``maxpool K/S/P``.
        image: Whether it reads the image, which has negative values; others read what a rectifier
            leaves, whose zero point is 0 in INT8.
    """

    op: str
    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    unit: int = 0
    tail: tuple[str, ...] = ()
    image: bool = False

    @property
    def key(self) -> str:
        """The shape in one line for people, the same for equal shapes."""
        if self.op != "Conv":
            return self.op
        parts = [
            f"Conv {self.kernel[0]}x{self.kernel[1]}",
            f"stride {self.strides[0]}x{self.strides[1]}",
            f"pads {','.join(map(str, self.pads))}",
            f"{'image' if self.image else 'input'} {self.size[0]}x{self.size[1]}",
        ]
        if self.unit:
            parts.append(f"groups of {self.unit}")
        return " ".join([*parts, *(f"+ {step}" for step in self.tail)])


@dataclass(frozen=True)
class NetworkLayer:
    """One layer of a network.

    Attributes:
        name: Of its node, which is the torch layer's name in an exported network.
        shape: Its shape.
        inputs: Input channels; all of them for a grouped convolution.
        outputs: Output channels.
        gives_logits: Whether the output is the network's, whose channels cannot be pruned, as
            those of the image cannot.
    """

    name: str
    shape: LayerShape
    inputs: int
    outputs: int
    gives_logits: bool

    @property
    def reads_image(self) -> bool:
        """Whether the input is the image."""
        return self.shape.image


def network_layers(onnx: Path) -> tuple[NetworkLayer, ...]:
    """The layers of an FP32 network in normal form, in topological order.

    Raises:
        ModelError: The file cannot be read, shapes cannot be inferred, or it has no such layer.
    """
    model = load_model(onnx)
    sizes = sample_shapes(onnx)
    graph = model.graph
    depth = depths(graph)
    images = {value_name(value) for value in inputs(graph)}
    layers = []
    for node in graph:
        layer = layer_of(node)
        if layer is None:
            continue
        source = node.inputs[0]
        assert source is not None
        tail, end = _tail(node, depth)
        if node.op_type == "Conv":
            size = sizes[value_name(source)]
            shape = _conv_shape(node, size, layer.kernel, layer.groups, layer.weight.shape[1], tail)
            shape = replace(shape, image=value_name(source) in images)
        else:
            shape = LayerShape("Gemm", (1, 1))
        columns = layer.weight.shape[1]
        area = shape.kernel[0] * shape.kernel[1]
        layers.append(
            NetworkLayer(
                name=layer.name,
                shape=shape,
                inputs=columns // area * layer.groups,
                outputs=layer.weight.shape[0],
                gives_logits=end.is_graph_output(),
            )
        )
    if not layers:
        raise ModelError(f"{onnx}: no convolution or matrix product was found.")
    return tuple(layers)


def layer_widths(onnx: Path) -> dict[str, tuple[int, int]]:
    """Input and output channels of every layer of a network, by name.

    Raises:
        ModelError: As :func:`network_layers`.
    """
    return {layer.name: (layer.inputs, layer.outputs) for layer in network_layers(onnx)}


def _conv_shape(
    node: ir.Node,
    size: tuple[int | None, ...],
    kernel: tuple[int, ...],
    groups: int,
    columns: int,
    tail: tuple[str, ...],
) -> LayerShape:
    if len(kernel) != 2 or any(d != 1 for d in node.attributes.get_ints("dilations", (1, 1))):
        raise ModelError(
            f"Expected convolutions over images without dilation, got '{node_name(node)}'.",
            hint="Its time cannot be put into a latency table.",
        )
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    stride = node.attributes.get_ints("strides", (1, 1))
    height, width = size[2], size[3]
    assert height is not None
    assert width is not None
    return LayerShape(
        op="Conv",
        size=(height, width),
        kernel=(kernel[0], kernel[1]),
        strides=(stride[0], stride[1]),
        pads=(top, left, bottom, right),
        unit=columns // (kernel[0] * kernel[1]) if groups > 1 else 0,
        tail=tail,
    )


def _tail(node: ir.Node, depth: dict[str, int]) -> tuple[tuple[str, ...], ir.Value]:
    """What runs over the layer's output alone, and the value behind it.

    A residual sum belongs to the layer on the longer path, which is computed last.
    """
    steps: list[str] = []
    value = node.outputs[0]
    while True:
        readers = consumers(value)
        if len(readers) != 1:
            return tuple(steps), value
        reader, index = readers[0]
        if reader.op_type == "Add" and ADD not in steps and skip_input(reader, depth) != index:
            steps.append(ADD)
        elif reader.op_type == "Relu":
            steps.append(RELU)
        elif reader.op_type == "MaxPool":
            kernel = reader.attributes.get_ints("kernel_shape", (1, 1))
            strides = reader.attributes.get_ints("strides", (1, 1))
            pads = reader.attributes.get_ints("pads", (0, 0, 0, 0))
            if reader.attributes.get_int("ceil_mode", 0):
                return tuple(steps), value
            steps.append(f"maxpool {kernel[0]}/{strides[0]}/{pads[0]}")
        else:
            return tuple(steps), value
        value = reader.outputs[0]
