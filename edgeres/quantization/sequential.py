"""Learned rounding of a whole network: each layer on the inputs that the layers before it give.

The Q/DQ model runs piece by piece. Whenever the input of a layer is there, its moments are taken,
its integers and its bias are chosen and written into the graph, and the next piece runs with them.
One layer's moments are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import Layer, constant, node_name
from edgeres.quantization.moments import few_patches, has_patches, patch_moments
from edgeres.quantization.pairing import pairings
from edgeres.quantization.qdq import QUANTIZE, QuantizedLayer, rewrite_layer
from edgeres.quantization.rounding import learn_rounding
from edgeres.quantization.rounding_objective import Samples
from edgeres.quantization.saturation import prove, require_safe
from edgeres.quantization.segments import run_in_segments
from edgeres.quantization.weights import QuantizedWeight
from edgeres.sqnr import sqnr_db

#: Bias that goes with a layer's new integers.
BiasOf = Callable[[QuantizedLayer, QuantizedWeight], NDArray[np.float32] | None]


def learn_network(
    qdq: ir.Model,
    items: Sequence[QuantizedLayer],
    rules: QdqRules,
    images: NDArray[np.float32],
    bias_of: BiasOf,
    *,
    centred: Sequence[bool],
    saturating: bool,
) -> tuple[list[QuantizedLayer], dict[str, float]]:
    """Chooses the integers of all layers of a network.

    Args:
        qdq: The Q/DQ model with these layers in it, changed in place.
        items: Its layers as :func:`edgeres.quantization.weights.quantize_weight` gave them, in
            topological order; scales are kept.
        rules: The rule set that it was written for.
        images: ``(N, C, H, W) float32`` calibration images.
        bias_of: Gives the bias that goes with new integers.
        centred: For each layer, whether its bias takes up the mean error.
        saturating: Keep all pairs safe.

    Returns:
        The layers, and by name how much the squared error of each one's output fell, in dB.

    Raises:
        StageError: ONNX Runtime failed, or a pair is not safe (never expected).
    """
    learned = list(items)
    gains: dict[str, float] = {}
    readers, zeros = _quantizers(qdq.graph, items)

    def visit(name: str, output: NDArray[np.generic]) -> NDArray[np.generic]:
        for index in readers[name]:
            item = learned[index]
            if not has_patches(item.layer, output):
                continue  # keeps its nearest rounding
            # Of many small products threads would mostly wait for each other.
            with threadpool_limits(limits=1, user_api="blas"):
                hessian = _seen(item.layer, output, zeros[name], centred=centred[index])
                weight, gains[item.layer.name] = learned_weight(
                    item.layer, item.weight, hessian, saturating=saturating
                )
            item = replace(item, weight=weight)
            learned[index] = replace(item, bias=bias_of(item, weight))
            rewrite_layer(qdq.graph, learned[index], rules)
        return output

    run_in_segments(qdq, list(readers), images, visit, optimize=True)
    return learned, gains


def _seen(
    layer: Layer, output: NDArray[np.generic], zero: int, *, centred: bool
) -> NDArray[np.float32] | Samples:
    """What a layer reads: its patches where they are few, else their moments."""
    patches = few_patches(layer, output, zero=zero)
    if patches is not None:
        if centred:
            patches -= patches.mean(axis=0, dtype=np.float64).astype(np.float32)
        return Samples(patches)
    moments = patch_moments(layer, output, zero=zero)
    return moments.covariance() if centred else moments.second


def _quantizers(
    graph: ir.Graph, items: Sequence[QuantizedLayer]
) -> tuple[dict[str, list[int]], dict[str, int]]:
    """Names of the nodes that quantize the layers' inputs: indices of their readers; zero points.

    A network is cut there, behind the QuantizeLinear: what it gives are the very integers that a
    layer multiplies, in a quarter of the memory.
    """
    position = {item.layer.name: index for index, item in enumerate(items)}
    readers: dict[str, list[int]] = {}
    zeros: dict[str, int] = {}
    for node in graph:
        index = position.get(node_name(node))
        if index is None or node.inputs[0] is None:
            continue
        dequantize = node.inputs[0].producer()
        integers = dequantize.inputs[0] if dequantize is not None else None
        quantize = integers.producer() if integers is not None else None
        if quantize is None or quantize.op_type != QUANTIZE:
            continue
        zero = constant(quantize.inputs[2])
        readers.setdefault(node_name(quantize), []).append(index)
        zeros[node_name(quantize)] = 0 if zero is None else int(zero)
    return readers, zeros


def learned_weight(
    layer: Layer,
    weight: QuantizedWeight,
    hessian: NDArray[np.float32] | Samples,
    *,
    saturating: bool,
) -> tuple[QuantizedWeight, float]:
    """Integers of one layer for the least squared output error on what the moments saw.

    Args:
        layer: The layer in float.
        weight: Its INT8 weight by nearest rounding.
        hessian: ``(G, K, K) float32`` second moment of its quantized input, or the covariance
            where the bias takes up the mean error; or the patches of which they would be.
        saturating: Keep all pairs safe.

    Returns:
        The weight at the same scales, and how much the squared error of the layer's output fell, in
        dB, at least 0.

    Raises:
        StageError: A pair is not safe (never expected).
    """
    rows, columns = layer.weight.shape
    packings = pairings(columns, layer.kernel)
    used = packings if saturating else ()
    if not (
        hessian.patches if isinstance(hessian, Samples) else hessian
    ).any():  # the images say nothing about this layer
        return weight, 0.0
    scales = np.broadcast_to(weight.scales, rows).astype(np.float64)[:, None]
    exact = layer.weight / scales
    rounding = learn_rounding(weight.values.astype(np.float32), exact, hessian, used)
    squared = np.square(scales[:, 0])
    before, after = float(rounding.before @ squared), float(rounding.after @ squared)
    whole = rounding.whole
    values = whole.astype(np.int8)
    proof = prove(values, packings, moved=weight.proof.moved)
    if saturating:
        require_safe(layer.name, proof)
    gain_db = 10 * float(np.log10(before / after)) if after > 0.0 else 0.0
    found_sqnr = sqnr_db(layer.weight, whole * scales)
    return replace(weight, values=values, proof=proof, sqnr_db=found_sqnr), gain_db
