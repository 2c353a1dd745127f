"""Runs a network with other nodes quantized each time, and only what that changes.

The float graph is cut wherever one tensor alone goes on, in a ResNet behind each block. The network
runs once in float and once quantized, and what goes over each cut is kept. A variant then starts at
its first piece that is in neither: a piece with one layer quantized is small, and those behind it
are there already. So no variant builds a model, and on average half a pass is run.

Scales, integers and biases are those of the whole quantized network. Weights are dequantized
beforehand, which is what a DequantizeLinear does, and all else runs as a Q/DQ file is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import (
    WEIGHTED,
    constant,
    consumers,
    inputs,
    is_activation,
    node_name,
    only_rectified,
    value_name,
)
from edgeres.graph.session import open_session, run_feeds
from edgeres.quantization.placement import Placement, place
from edgeres.quantization.qdq import DEQUANTIZE, QUANTIZE, QuantizedLayer
from edgeres.quantization.scales import QuantParams, quantize_bias


@dataclass(frozen=True)
class Piece:
    """Nodes between two cuts, the tensor that goes in and the one that goes on."""

    nodes: tuple[ir.Node, ...]
    reads: str
    gives: str


@dataclass(frozen=True)
class Choice:
    """What is quantized in one piece.

    Attributes:
        stored: Tensors made in the piece of which all readers take the dequantized form.
        readers: Tensor, node and input index of the other readers that do.
        layers: Layers with an INT8 weight.
    """

    stored: frozenset[str]
    readers: frozenset[tuple[str, str, int]]
    layers: frozenset[str]


Choices = tuple[Choice, ...]


def pieces(graph: ir.Graph) -> list[Piece]:
    """Cuts a graph where one float tensor alone goes on and a weighted layer lies behind.

    No cut lies between a layer and the Relu that engines fold into it.
    """
    nodes = list(graph)
    last_read: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        last_read.update({v: index for v in node.inputs if v is not None and constant(v) is None})
    last_read.update(dict.fromkeys(graph.outputs, len(nodes)))
    parts: list[Piece] = []
    current: list[ir.Node] = []
    reads = value_name(inputs(graph)[0])
    live = {inputs(graph)[0]}
    for index, node in enumerate(nodes):
        if node.op_type == "Constant":
            continue
        current.append(node)
        live = {v for v in (*live, *node.outputs) if last_read.get(v, -1) > index}
        if index + 1 == len(nodes) or len(live) != 1:
            continue
        (value,) = live
        weighted = any(member.op_type in WEIGHTED for member in current)
        if weighted and is_activation(value) and not only_rectified(value):
            parts.append(Piece(tuple(current), reads, value_name(value)))
            reads, current = value_name(value), []
    parts.append(Piece(tuple(current), reads, value_name(graph.outputs[0])))
    return parts


class Variants:
    """A network of which any part can be quantized.

    A run is of one thread; several threads may run the same variant, or the two that are shared.

    Attributes:
        exact: Nothing quantized.
        quantized: Everything quantized that the rules ask for.
    """

    def __init__(
        self,
        model: ir.Model,
        items: Sequence[QuantizedLayer],
        params: Mapping[str, QuantParams],
        rules: QdqRules,
    ) -> None:
        """Cuts the graph.

        Args:
            model: The FP32 model in normal form; not changed.
            items: Its layers with integers and biases, everything quantized.
            params: Scale and zero point by tensor name, likewise.
            rules: The rule set.
        """
        self._model = model
        self._items = {item.layer.name: item for item in items}
        self._params = params
        self._rules = rules
        self._pieces = pieces(model.graph)
        nothing = Choice(frozenset(), frozenset(), frozenset())
        self.exact: Choices = (nothing,) * len(self._pieces)
        self.quantized = self.choose(place(model.graph, rules))
        #: Sessions of the two that every variant shares pieces with.
        self._shared: dict[tuple[int, Choice], Any] = {}
        #: Those of the variant that runs at present.
        self._own: tuple[Choices, dict[int, Any]] = ((), {})
        self._opening = Lock()

    def choose(self, placement: Placement) -> Choices:
        """What a placement of this model's graph asks for in each piece."""
        stored: set[str] = set()
        single: set[tuple[str, str, int]] = set()
        values = {
            value_name(v): v for piece in self._pieces for n in piece.nodes for v in n.outputs
        }
        for tensor, readers in placement.readers.items():
            value = values.get(tensor)
            if (
                value is not None
                and not value.is_graph_output()
                and set(readers) == set(consumers(value))
            ):
                stored.add(tensor)
            else:
                single.update((tensor, node_name(node), index) for node, index in readers)
        layers = {layer.name for layer in placement.layers}
        choices = []
        for piece in self._pieces:
            names = {node_name(node) for node in piece.nodes}
            outputs = {value_name(value) for node in piece.nodes for value in node.outputs}
            own = frozenset(reader for reader in single if reader[1] in names)
            choices.append(Choice(frozenset(stored & outputs), own, frozenset(layers & names)))
        return tuple(choices)

    def run(self, choices: Choices, batch: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """What each piece gives for ``(N, C, H, W) float32`` images, the logits last.

        Raises:
            StageError: ONNX Runtime failed.
        """
        yield from self._run_from(0, choices, batch)

    def logits(
        self, choices: Choices, batch: NDArray[np.float32], known: Mapping[Choices, Sequence[Any]]
    ) -> NDArray[np.float32]:
        """Logits of one variant.

        Args:
            choices: What is quantized.
            batch: ``(N, C, H, W) float32``.
            known: For :attr:`exact` and :attr:`quantized` what :meth:`run` gave for the batch.

        Returns:
            ``(N, K) float32``.

        Raises:
            StageError: ONNX Runtime failed.
        """
        shared = {other: _shared_pieces(choices, other) for other in known}
        nearest = max(shared, key=lambda other: shared[other])
        first = shared[nearest]
        tensor = known[nearest][first - 1] if first else batch
        logits: NDArray[np.float32] = list(self._run_from(first, choices, tensor))[-1]
        return logits

    def _run_from(
        self, first: int, choices: Choices, tensor: NDArray[np.float32]
    ) -> Iterator[NDArray[np.float32]]:
        for index in range(first, len(self._pieces)):
            piece = self._pieces[index]
            session = self._session(index, choices)
            tensor = run_feeds(session, {piece.reads: tensor}, [piece.gives])[piece.gives]
            yield tensor

    def _session(self, index: int, choices: Choices) -> Any:
        with self._opening:  # of several threads one opens it, the others find it
            return self._opened(index, choices)

    def _opened(self, index: int, choices: Choices) -> Any:
        choice = choices[index]
        shared = choice in (self.exact[index], self.quantized[index])
        if not shared and self._own[0] != choices:
            self._own = (choices, {})
        session = self._shared.get((index, choice)) if shared else self._own[1].get(index)
        if session is None:
            model = self._written(self._pieces[index], choice).SerializeToString()
            session = open_session(model, threads=1, optimize=False)
            if shared:
                self._shared[index, choice] = session
            else:
                self._own[1][index] = session
        return session

    def _written(self, piece: Piece, choice: Choice) -> onnx.ModelProto:
        from onnx import helper

        nodes: list[onnx.NodeProto] = []
        constants: dict[str, NDArray[np.generic]] = {}
        for node in piece.nodes:
            proto = ir.to_proto(node)
            is_quantized = node_name(node) in choice.layers
            for index, value in enumerate(node.inputs):
                content = constant(value)
                if value is None or (is_quantized and index > 0):
                    continue
                name = value_name(value)
                if content is not None:
                    constants[name] = content
                elif (name, node_name(node), index) in choice.readers:
                    proto.input[index] = f"{name}/dequantized"
                    if not any(proto.input[index] in other.output for other in nodes):
                        nodes += self._pair(name, name, constants)
            if is_quantized:
                self._quantize(proto, constants)
            nodes.append(proto)
            for position, value in enumerate(node.outputs):
                name = value_name(value)
                if name in choice.stored:
                    proto.output[position] = f"{name}/float"
                    nodes += self._pair(f"{name}/float", name, constants)
                    nodes[-1].output[0] = name
        graph = helper.make_graph(
            nodes,
            "piece",
            [helper.make_tensor_value_info(piece.reads, onnx.TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info(piece.gives, onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = self._model.opset_imports.items()
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets],
            ir_version=self._model.ir_version,
        )

    def _pair(
        self, source: str, tensor: str, constants: dict[str, NDArray[np.generic]]
    ) -> list[onnx.NodeProto]:
        """QuantizeLinear and DequantizeLinear with the tensor's scale."""
        from onnx import helper

        params = self._params[tensor]
        scale, zero = f"{tensor}/scale", f"{tensor}/zero"
        constants[scale] = np.array(params.scale, np.float32)
        constants[zero] = np.array(params.zero_point, params.dtype)
        whole = f"{tensor}/whole"
        return [
            helper.make_node(QUANTIZE, [source, scale, zero], [whole]),
            helper.make_node(DEQUANTIZE, [whole, scale, zero], [f"{tensor}/dequantized"]),
        ]

    def _quantize(self, node: onnx.NodeProto, constants: dict[str, NDArray[np.generic]]) -> None:
        """Gives a layer the weight and the bias that its integers stand for."""
        item = self._items[node.name]
        weight, bias = f"{node.name}/weight", f"{node.name}/bias"
        node.input[1] = weight
        constants[weight] = item.layer.stored(item.weight.dequantized)
        if item.bias is None:
            return
        content = item.bias
        if self._rules.bias == "int32":
            scales = np.broadcast_to(item.weight.scales, content.shape).astype(np.float32)
            whole = quantize_bias(content, item.input_scale, scales)
            content = whole.astype(np.float32) * (np.float32(item.input_scale) * scales)
        del node.input[2:]
        node.input.append(bias)
        constants[bias] = content.astype(np.float32)


def _shared_pieces(choices: Choices, other: Choices) -> int:
    """Pieces from the first on in which two variants are alike, but for the last piece."""
    count = 0
    while count < len(choices) - 1 and choices[count] == other[count]:
        count += 1
    return count
