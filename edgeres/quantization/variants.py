"""Runs a network with other nodes quantized each time, and only what that changes.

The float graph is cut behind layers wherever at most two tensors go on: in a ResNet the sum of a
block and what its branch has made of it. The network runs once in float and once quantized, and
what goes over each cut is kept. A variant then starts at its first piece that is in neither: a
tensor is quantized where it is read, so that is the piece of the node itself, and all pieces but
those of its neighbours are opened already. So no variant builds a model, and on average half a pass
is run.

Scales, integers and biases are those of the whole quantized network. Weights are dequantized
beforehand, which is what a DequantizeLinear does, and ops between Q and DQ run in float. ONNX
Runtime may lay floats out as it likes there, which moves sums by float rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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
    inputs,
    is_activation,
    node_name,
    only_rectified,
    value_name,
)
from edgeres.graph.session import open_session, run_feeds
from edgeres.quantization.forward import detached_proto
from edgeres.quantization.placement import Placement, place
from edgeres.quantization.qdq import DEQUANTIZE, QUANTIZE, QuantizedLayer
from edgeres.quantization.scales import QuantParams, quantize_bias

#: Tensors by name, ``(N, ...) float32``: what goes over a cut.
Live = Mapping[str, NDArray[np.float32]]

#: Tensors that may go over a cut.
_TOGETHER = 2
#: Weights from this size on are handed to the engine as they are.
_LARGE_BYTES = 1024


@dataclass(frozen=True)
class Piece:
    """Nodes between two cuts, the tensors that they read, and those of theirs that go on."""

    nodes: tuple[ir.Node, ...]
    reads: tuple[str, ...]
    gives: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What is quantized in one piece.

    Attributes:
        readers: Tensor, node and input index of the inputs that take the dequantized form.
        layers: Layers with an INT8 weight.
    """

    readers: frozenset[tuple[str, str, int]]
    layers: frozenset[str]


Choices = tuple[Choice, ...]


def pieces(graph: ir.Graph) -> list[Piece]:
    """Cuts a graph behind weighted layers where at most two tensors go on, both float.

    No cut lies between a layer and the Relu that engines fold into it.
    """
    nodes = [node for node in graph if node.op_type != "Constant"]
    last_read: dict[ir.Value, int] = {}
    for index, node in enumerate(nodes):
        last_read.update({v: index for v in node.inputs if v is not None and constant(v) is None})
    last_read.update(dict.fromkeys(graph.outputs, len(nodes)))
    parts: list[Piece] = []
    current: list[ir.Node] = []
    live = set(inputs(graph))
    for index, node in enumerate(nodes):
        current.append(node)
        live = {v for v in (*live, *node.outputs) if last_read.get(v, -1) > index}
        cut = any(member.op_type in WEIGHTED for member in current) and len(live) <= _TOGETHER
        if index + 1 == len(nodes) or (
            cut and all(is_activation(value) and not only_rectified(value) for value in live)
        ):
            parts.append(_piece(current, live))
            current = []
    return parts


def _piece(nodes: Sequence[ir.Node], live: Collection[ir.Value]) -> Piece:
    made = [value for node in nodes for value in node.outputs]
    read = [v for node in nodes for v in node.inputs if v is not None and constant(v) is None]
    outside = dict.fromkeys(value_name(value) for value in read if value not in made)
    gives = tuple(value_name(value) for value in made if value in live)
    return Piece(tuple(nodes), tuple(outside), gives)


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
        self._outputs = tuple(value_name(value) for value in model.graph.outputs)
        self._needed_behind = _needed_behind(self._pieces, self._outputs)
        self._input = value_name(inputs(model.graph)[0])
        nothing = Choice(frozenset(), frozenset())
        self.exact: Choices = (nothing,) * len(self._pieces)
        self.quantized = self.choose(place(model.graph, rules))
        #: Sessions of the two that every variant shares pieces with.
        self._shared: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        #: Those of the variant that runs at present.
        self._own: tuple[Choices, dict[int, Any]] = ((), {})
        self._opening = Lock()

    def choose(self, placement: Placement) -> Choices:
        """What a placement of this model's graph asks for in each piece."""
        readers = {
            (tensor, node_name(node), index)
            for tensor, found in placement.readers.items()
            for node, index in found
        }
        layers = {layer.name for layer in placement.layers}
        choices = []
        for piece in self._pieces:
            names = {node_name(node) for node in piece.nodes}
            own = frozenset(reader for reader in readers if reader[1] in names)
            choices.append(Choice(own, frozenset(layers & names)))
        return tuple(choices)

    def run(self, choices: Choices, batch: NDArray[np.float32]) -> Iterator[Live]:
        """What goes over each cut for ``(N, C, H, W) float32`` images, at the end the outputs.

        Raises:
            StageError: ONNX Runtime failed.
        """
        yield from self._run_from(0, choices, {self._input: batch})

    def outputs(
        self,
        choices: Choices,
        batch: NDArray[np.float32],
        known: Sequence[tuple[Choices, Sequence[Live]]],
        count: int,
    ) -> Live:
        """Outputs of one variant, by name.

        Args:
            choices: What is quantized.
            batch: Samples ``(N, ...) float32``.
            known: Other variants, and what :meth:`run` gave for them and the batch.
            count: How many of the batch's samples are wanted.

        Returns:
            ``(count, ...) float32`` each.

        Raises:
            StageError: ONNX Runtime failed.
        """
        shared = [(_shared_pieces(choices, other), cuts) for other, cuts in known]
        first, cuts = max(shared, key=lambda pair: pair[0])
        live = cuts[first - 1] if first else {self._input: batch}
        return self.answer(list(self._run_from(first, choices, live)), count)

    def answer(self, cuts: Sequence[Live], count: int) -> Live:
        """The outputs among what :meth:`run` gave, of the first ``count`` samples."""
        return {name: cuts[-1][name][:count] for name in self._outputs}

    def _run_from(self, first: int, choices: Choices, live: Live) -> Iterator[Live]:
        needed = self._needed_behind
        for index in range(first, len(self._pieces)):
            piece = self._pieces[index]
            session = self._session(index, choices)
            made = run_feeds(session, {name: live[name] for name in piece.reads}, piece.gives)
            live = {name: v for name, v in {**live, **made}.items() if name in needed[index]}
            yield live

    def _session(self, index: int, choices: Choices) -> Any:
        with self._opening:  # of several threads one opens it, the others find it
            return self._opened(index, choices)

    def _opened(self, index: int, choices: Choices) -> Any:
        choice = choices[index]
        which = (self.exact[index], self.quantized[index])
        shared = choice in which
        if self._own[0] is not choices:
            self._own = (choices, {})
        opened = self._shared[which.index(choice)] if shared else self._own[1]
        session = opened.get(index)
        if session is None:
            model, weights = self._written(self._pieces[index], choice)
            session = open_session(
                model.SerializeToString(),
                threads=1,
                fuse_quantized=False,
                weights=weights,
                trim=False,
            )
            opened[index] = session
        return session

    def _written(
        self, piece: Piece, choice: Choice
    ) -> tuple[onnx.ModelProto, dict[str, NDArray[np.generic]]]:
        """A model, and the weights that are not in it."""
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
                        nodes += self._pair(name, constants)
            if is_quantized:
                self._quantize(proto, constants)
            nodes.append(proto)
        weights = {n: value for n, value in constants.items() if value.nbytes > _LARGE_BYTES}
        graph = helper.make_graph(
            nodes,
            "piece",
            [_float_info(name) for name in piece.reads],
            [_float_info(name) for name in piece.gives],
            [
                detached_proto(name, value)
                if name in weights
                else onnx.numpy_helper.from_array(value, name)
                for name, value in constants.items()
            ],
        )
        opsets = self._model.opset_imports.items()
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets],
            ir_version=self._model.ir_version,
        )
        return model, weights

    def _pair(self, tensor: str, constants: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
        """QuantizeLinear and DequantizeLinear with the tensor's scale."""
        from onnx import helper

        params = self._params[tensor]
        scale, zero = f"{tensor}/scale", f"{tensor}/zero"
        constants[scale] = np.array(params.scale, np.float32)
        constants[zero] = np.array(params.zero_point, params.dtype)
        whole = f"{tensor}/whole"
        return [
            helper.make_node(QUANTIZE, [tensor, scale, zero], [whole]),
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


def _float_info(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _needed_behind(parts: Sequence[Piece], outputs: Sequence[str]) -> list[frozenset[str]]:
    """Names of the tensors that go on behind each piece."""
    needed: list[frozenset[str]] = []
    later = frozenset(outputs)
    for part in reversed(parts):
        needed.append(later)
        later |= set(part.reads)
    return needed[::-1]


def _shared_pieces(choices: Choices, other: Choices) -> int:
    """Pieces from the first on in which two variants are alike, but for the last piece."""
    count = 0
    while count < len(choices) - 1 and choices[count] == other[count]:
        count += 1
    return count
