"""An FP32 ONNX model as a torch module: the teacher as it is, the student with fake quantization.

The module runs the nodes of the file, so names and Q/DQ placement are those of the file by
construction: a tensor is fake-quantized for exactly the readers that the placement names.
Batch normalization is folded already. Layers that stay float keep their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgeres.graph.layers import constant, inputs, node_name, value_name
from edgeres.quantization.qdq import QuantizedLayer
from edgeres.training.fake_quant import (
    ActivationQuantizer,
    QuantizedParameters,
    keep_scales_valid,
)
from edgeres.training.onnx_ops import Step, run_step, steps_of

Values = dict[str, Tensor]
Observe = Callable[[str, Tensor], Tensor]


class OnnxNetwork(nn.Module):
    """Runs the nodes of a graph on ``(N, C, H, W) float32`` images; gives its outputs.

    Attributes:
        steps: The nodes, in order.
    """

    def __init__(
        self,
        graph: ir.Graph,
        *,
        channels_last_input: bool = False,
        without: Collection[str] = (),
    ) -> None:
        """Takes over nodes and constants; none of them is a parameter.

        Args:
            graph: FP32 graph in normal form.
            channels_last_input: The graph's input is ``(N, H, W, C)``.
            without: Names of nodes whose constants are left to the caller.

        Raises:
            ModelError: An op has no form here.
        """
        super().__init__()
        self.image = value_name(inputs(graph)[0])
        self.outputs = tuple(value_name(value) for value in graph.outputs)
        self.channels_last_input = channels_last_input
        shape = inputs(graph)[0].shape
        self.over_lines = shape is not None and len(shape) == 3
        self.steps = tuple(
            step for node in graph if node.op_type != "Constant" for step in steps_of(node)
        )
        self._constants: dict[str, str] = {}
        kept = [node for node in graph if node_name(node) not in without]
        for value in dict.fromkeys(v for node in kept for v in node.inputs if v is not None):
            content = constant(value)
            if content is not None:
                self._constants[value_name(value)] = f"constant_{len(self._constants)}"
                tensor = torch.from_numpy(np.array(content))
                self.register_buffer(self._constants[value_name(value)], tensor)
        reads = {name: index for index, step in enumerate(self.steps) for name in step.inputs}
        self._dead_after: dict[int, list[str]] = {}
        for name, index in reads.items():
            self._dead_after.setdefault(index, []).append(name)

    def as_input(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` as the graph takes them."""
        if self.over_lines:
            return images.squeeze(2)
        return images.permute(0, 2, 3, 1) if self.channels_last_input else images

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The one output of a batch, or all of them in order.

        A graph over lines is given images of one row, too.
        """
        values: Values = {self.image: self.as_input(images)}
        for index, step in enumerate(self.steps):
            values[step.output] = self.compute(step, values)
            for name in self._dead_after.get(index, ()):
                if name not in self.outputs:
                    values.pop(name, None)
                values.pop(_dequantized(name), None)
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found

    def compute(self, step: Step, values: Values) -> Tensor:
        """The output of a node."""
        return run_step(step, self.arguments(step, values))

    def arguments(self, step: Step, values: Values) -> list[Tensor | None]:
        """What a node reads."""
        return [self.read(name, values) if name else None for name in step.inputs]

    def read(self, name: str, values: Values) -> Tensor:
        """An activation or a constant."""
        if name in self._constants:
            return self.get_buffer(self._constants[name])
        return values[name]


class QdqNetwork(OnnxNetwork):
    """The same with fake quantization wherever a Q/DQ file of one rule set has Q/DQ.

    Attributes:
        layers: Learned parameters, in the order of ``layer_names``.
        quantizers: One a range source, in the order of ``sources``.
        observe: Called with the name and the integers ``q - zero_point`` (float32) of every
            fake-quantized tensor; what it returns is used in their place. For tests.
    """

    def __init__(
        self,
        graph: ir.Graph,
        layers: Mapping[str, tuple[QuantizedLayer, QuantizedParameters]],
        quantizers: Mapping[str, ActivationQuantizer],
        source: Mapping[str, str],
        readers: Mapping[str, frozenset[tuple[str, int]]],
        *,
        channels_last_input: bool = False,
    ) -> None:
        """Puts learned parameters into a graph.

        Args:
            graph: FP32 graph in normal form.
            layers: Node name to the layer and its parameters.
            quantizers: Range source to its quantizer.
            source: Tensor name to its range source.
            readers: Tensor name to the readers (node name, input index) of its dequantized form.
            channels_last_input: The graph's input is ``(N, H, W, C)``.
        """
        super().__init__(graph, channels_last_input=channels_last_input, without=frozenset(layers))
        self.layer_names = tuple(layers)
        self.layers = nn.ModuleList(parameters for _, parameters in layers.values())
        self.sources = tuple(quantizers)
        self.quantizers = nn.ModuleList(quantizers.values())
        self.observe: Observe | None = None
        self._index = {name: index for index, name in enumerate(layers)}
        self._shapes = {
            name: (item.layer.stored_shape, item.layer.channel_axis)
            for name, (item, _) in layers.items()
        }
        self._quantizer_of = {name: self.sources.index(source[name]) for name in source}
        self._readers = dict(readers)

    def as_input(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` as the graph takes them."""
        if self.over_lines:
            return images.squeeze(2)
        return images.permute(0, 2, 3, 1) if self.channels_last_input else images

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of a batch, as the Q/DQ file gives them."""
        keep_scales_valid(self)
        return super().forward(images)

    def arguments(self, step: Step, values: Values) -> list[Tensor | None]:
        """What a node reads: dequantized tensors, weights and biases where the file has them."""
        if step.name not in self._index:
            return [self._input(step, i, values) for i in range(len(step.inputs))]
        shape, axis = self._shapes[step.name]
        quantizer = self._quantizer(step, 0)
        parameters = self.layers[self._index[step.name]]
        weight, bias = parameters(None if quantizer is None else quantizer.scale.detach())
        weight = weight.reshape(shape) if axis == 0 else weight.T
        return [self._input(step, 0, values), weight, bias]

    def _input(self, step: Step, index: int, values: Values) -> Tensor | None:
        name = step.inputs[index]
        if not name:
            return None
        value = self.read(name, values)
        quantizer = self._quantizer(step, index)
        if quantizer is None:
            return value
        key = _dequantized(name)
        if key not in values:
            if self.observe is None:
                values[key] = quantizer(value)
            else:
                values[key] = self.observe(name, quantizer.whole(value)) * quantizer.scale
        return values[key]

    def _quantizer(self, step: Step, index: int) -> ActivationQuantizer | None:
        name = step.inputs[index]
        if (step.name, index) not in self._readers.get(name, frozenset()):
            return None
        found = self.quantizers[self._quantizer_of[name]]
        assert isinstance(found, ActivationQuantizer)
        return found


def _dequantized(name: str) -> str:
    """Key of a tensor's dequantized form; no ONNX name holds a line break."""
    return name + "\n"
