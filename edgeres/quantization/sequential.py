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

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import Layer, node_name
from edgeres.quantization.moments import Moments, has_patches, patch_moments
from edgeres.quantization.pairing import pairings
from edgeres.quantization.qdq import QuantizedLayer, rewrite_layer
from edgeres.quantization.rounding import learn_rounding
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
    position = {item.layer.name: index for index, item in enumerate(items)}
    readers: dict[str, list[int]] = {}
    for node in qdq.graph:
        index = position.get(node_name(node))
        source = node.inputs[0].producer() if index is not None and node.inputs[0] else None
        if index is not None and source is not None:
            readers.setdefault(node_name(source), []).append(index)

    def visit(name: str, output: NDArray[np.float32]) -> NDArray[np.float32]:
        for index in readers[name]:
            item = learned[index]
            if not has_patches(item.layer, output):
                continue  # keeps its nearest rounding
            whole = output / np.float32(item.input_scale)
            np.rint(whole, out=whole)
            moments = patch_moments(item.layer, whole)
            weight, gains[item.layer.name] = learned_weight(
                item.layer, item.weight, moments, centred=centred[index], saturating=saturating
            )
            item = replace(item, weight=weight)
            learned[index] = replace(item, bias=bias_of(item, weight))
            rewrite_layer(qdq.graph, learned[index], rules)
        return output

    run_in_segments(qdq, list(readers), images, visit)
    return learned, gains


def learned_weight(
    layer: Layer,
    weight: QuantizedWeight,
    moments: Moments,
    *,
    centred: bool,
    saturating: bool,
) -> tuple[QuantizedWeight, float]:
    """Integers of one layer for the least squared output error on what the moments saw.

    Args:
        layer: The layer in float.
        weight: Its INT8 weight by nearest rounding.
        moments: Of its quantized input.
        centred: The bias takes up the mean error, so only the covariance counts.
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
    hessian = moments.covariance() if centred else moments.second
    if not hessian.any():  # the images say nothing about this layer
        return weight, 0.0
    scales = np.broadcast_to(weight.scales, rows).astype(np.float64)[:, None]
    exact = layer.weight.astype(np.float64) / scales
    found = learn_rounding(weight.values.astype(np.float64), exact, hessian, used)
    squared = np.square(scales[:, 0])
    before, after = float(found.before @ squared), float(found.after @ squared)
    whole = found.whole
    values = whole.astype(np.int8)
    proof = prove(values, packings, moved=weight.proof.moved)
    if saturating:
        require_safe(layer.name, proof)
    gain_db = 10 * float(np.log10(before / after)) if after > 0.0 else 0.0
    found_sqnr = sqnr_db(layer.weight, whole * scales)
    return replace(weight, values=values, proof=proof, sqnr_db=found_sqnr), gain_db
