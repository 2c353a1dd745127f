"""Cross-layer equalization: channels of like size inside a residual block, the function unchanged.

``relu(s x) = s relu(x)`` for ``s > 0``. So a channel between two layers may be divided by ``s`` in
the first one's weight and bias and multiplied by ``s`` in the second one's weight, and the network
computes what it did. INT8 then has less to cope with: one scale serves all channels of the tensor
between, and one scale serves all input channels of a row of the second weight (Nagel et al., arXiv
1906.04721, section 4.1). Factors are powers of two, which floats multiply by without rounding: the
network that comes out gives the same logits bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph import layers as graphs
from edgeres.graph.layers import Layer
from edgeres.system.files import write_atomic

Factors = NDArray[np.float64]

#: Ops that keep channels apart and commute with a positive factor. A Flatten does where it leaves
#: as many features as there were channels, which :func:`links` checks at the layer behind it.
_HOMOGENEOUS = frozenset(
    {"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Flatten"}
)
#: Largest factor, up or down; a channel that asks for more is nearly dead and not worth it.
_MOST = 64.0
#: Links that share a layer (conv1 - conv2 - conv3) are settled in rounds.
_ROUNDS = 50
_SETTLED = 1e-3


@dataclass(frozen=True)
class Link:
    """Two layers, by name, with nothing between that would notice a positive channel factor."""

    first: str
    second: str


def equalize(onnx: Path, out: Path) -> dict[Link, Factors]:
    """Writes the equalized form of an FP32 model.

    Args:
        onnx: FP32 model in normal form.
        out: Where the equalized ``.onnx`` goes; names and shapes are those of ``onnx``.

    Returns:
        What each channel between two layers was divided by.

    Raises:
        ModelError: The model cannot be read.
        StorageError: ``out`` cannot be written.
    """
    model = graphs.load_model(onnx)
    factors = equalizing_factors(model.graph)
    apply_factors(model.graph, factors)
    write_atomic(out, ir.to_proto(model).SerializeToString(deterministic=True))
    return factors


def links(graph: ir.Graph) -> tuple[Link, ...]:
    """Finds all pairs of layers that can be equalized, in topological order.

    A tensor between must have one reader, so what a skip path carries is left alone. Only ops that
    commute with a positive factor may stand between (a Relu, not a Clip), and no constant may
    belong to two nodes.
    """
    pairs = []
    for node in graph:
        first = graphs.layer_of(node)
        second = None if first is None else _next_layer(node.outputs[0])
        if first is None or second is None:
            continue
        own = _owns_constants(first.node) and _owns_constants(second.node)
        if own and _channels_read(second) == len(first.weight):
            pairs.append(Link(first.name, second.name))
    return tuple(pairs)


def equalizing_factors(graph: ir.Graph) -> dict[Link, Factors]:
    """What each channel between two layers is to be divided by; nothing is changed.

    With ``r1`` the largest weight that makes a channel and ``r2`` the largest that reads it, the
    factor ``sqrt(r1 / r2)`` gives both the size ``sqrt(r1 r2)`` (equation 11 of the paper). Here
    the factors of a link have geometric mean 1, as only ratios between channels matter, and are
    rounded to powers of two.

    Returns:
        Link to ``(C,) float64``; 1 for channels without weights.
    """
    layers = _layers(graph)
    by_link = {link: np.ones(len(layers[link.first].weight)) for link in links(graph)}
    weights = {name: np.abs(layer.weight).astype(np.float64) for name, layer in layers.items()}
    for _ in range(_ROUNDS):
        change = 0.0
        for link, factors in list(by_link.items()):
            made_peaks = weights[link.first].max(axis=1)
            read_peaks = _read_peaks(layers[link.second], weights[link.second])
            step = _balance(made_peaks, read_peaks)
            weights[link.first] /= step[:, None]
            weights[link.second] *= _by_column(layers[link.second], step)
            by_link[link] = factors * step
            change = max(change, float(np.abs(np.log(step)).max(initial=0.0)))
        if change < _SETTLED:
            break
    return {link: _powers_of_two(factors) for link, factors in by_link.items()}


def apply_factors(graph: ir.Graph, factors: Mapping[Link, Factors]) -> None:
    """Divides and multiplies the weights of a graph, in place."""
    nodes = {graphs.node_name(node): node for node in graph}
    for link, by_channel in factors.items():
        first = graphs.layer_of(nodes[link.first])
        second = graphs.layer_of(nodes[link.second])
        assert first is not None
        assert second is not None
        _replace(first, 1, first.stored(_scaled(first.weight, 1 / by_channel[:, None])))
        if first.bias is not None:
            value = first.node.inputs[2]
            assert value is not None
            assert value.shape is not None
            shape = tuple(int(size) for size in value.shape.numpy())
            bias = np.broadcast_to(_scaled(first.bias, 1 / by_channel), len(by_channel))
            _replace(first, 2, bias.reshape(shape))
        columns = _by_column(second, by_channel)
        _replace(second, 1, second.stored(_scaled(second.weight, columns)))


def _layers(graph: ir.Graph) -> dict[str, Layer]:
    layers = (graphs.layer_of(node) for node in graph)
    return {layer.name: layer for layer in layers if layer is not None}


def _next_layer(value: ir.Value) -> Layer | None:
    """The only layer that reads a tensor, through ops that commute with a positive factor."""
    while True:
        uses = graphs.consumers(value)
        if len(uses) != 1 or value.is_graph_output():
            return None
        node, index = uses[0]
        layer = graphs.layer_of(node)
        if layer is not None:
            return layer if index == 0 else None
        if node.op_type not in _HOMOGENEOUS or len(node.outputs) != 1:
            return None
        value = node.outputs[0]


def _owns_constants(node: ir.Node) -> bool:
    """True where weight and bias are initializers that no other node reads."""
    return all(
        value is None or (value.const_value is not None and len(graphs.consumers(value)) == 1)
        for value in node.inputs[1:]
    )


def _channels_read(layer: Layer) -> int:
    positions = int(np.prod(layer.kernel, dtype=np.int64))
    return int(layer.weight.shape[1]) // positions * layer.groups


def _read_peaks(layer: Layer, weight: Factors) -> Factors:
    """``(C,)`` largest weight that reads each input channel."""
    channels = _channels_read(layer) // layer.groups
    apart = weight.reshape(layer.groups, -1, channels, weight.shape[1] // channels)
    return np.asarray(apart.max(axis=(1, 3)).reshape(-1))


def _by_column(layer: Layer, factors: Factors) -> Factors:
    """``(M, K)`` or ``(1, K)``: the factor of the channel that each weight reads."""
    rows, columns = layer.weight.shape
    per_group = factors.reshape(layer.groups, -1)
    by_group = np.repeat(per_group, columns // per_group.shape[1], axis=1)
    return np.repeat(by_group, rows // layer.groups, axis=0) if layer.groups > 1 else by_group


def _balance(made_peaks: Factors, read_peaks: Factors) -> Factors:
    alive = (made_peaks > 0.0) & (read_peaks > 0.0)
    if not alive.any():
        return np.ones_like(made_peaks)
    log = np.zeros_like(made_peaks)
    log[alive] = 0.5 * np.log(made_peaks[alive] / read_peaks[alive])
    log[alive] -= log[alive].mean()
    return np.exp(log)


def _powers_of_two(factors: Factors) -> Factors:
    return np.asarray(2.0 ** np.rint(np.log2(np.clip(factors, 1 / _MOST, _MOST))))


def _scaled(weight: NDArray[np.float32], factors: Factors) -> NDArray[np.float32]:
    return (weight * factors).astype(np.float32)


def _replace(layer: Layer, index: int, content: NDArray[np.generic]) -> None:
    value = layer.node.inputs[index]
    assert value is not None
    value.const_value = ir.tensor(np.ascontiguousarray(content), name=value.name)
