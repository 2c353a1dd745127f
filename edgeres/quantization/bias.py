"""Bias correction: quantization shifts the mean of a layer's output, and the bias takes it back.

Analytic (Nagel et al., arXiv 1906.04721, section 4.2): with weights off by ``d`` the output of a
channel is off by ``sum_k d_k E[x_k]`` on average, known from the calibration's channel means.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError
from edgeres.graph.layers import Layer, value_name
from edgeres.quantization.qdq import QuantizedLayer
from edgeres.quantization.scales import BIAS_LIMIT
from edgeres.quantization.table import CalibrationTable, TensorStats
from edgeres.quantization.weights import QuantizedWeight


def corrected_bias(
    layer: Layer,
    weight: QuantizedWeight,
    channel_mean: NDArray[np.float32],
    input_shape: tuple[int, ...] = (),
) -> NDArray[np.float32]:
    """Analytic correction.

    Args:
        layer: The layer in float.
        weight: Its INT8 weight.
        channel_mean: ``(C,)`` mean of each input channel.
        input_shape: ``(C, H, W)`` of the input; with it, kernel taps that fall into the padding
            at the border are counted only as often as they meet the image.

    Returns:
        ``(M,) float32`` bias; starts from zero where the layer has none.

    Raises:
        UsageError: The means do not fit the layer.
    """
    rows, columns = layer.weight.shape
    positions = int(np.prod(layer.kernel, dtype=np.int64)) if layer.kernel else 1
    expected = columns // positions * layer.groups
    if channel_mean.shape != (expected,):
        raise UsageError(f"{layer.name} reads {expected} channels, got {channel_mean.shape} means.")
    coverage = tap_coverage(layer, input_shape)
    mean = channel_mean.astype(np.float64).reshape(layer.groups, -1, 1) * coverage
    per_row = np.repeat(mean.reshape(layer.groups, columns), rows // layer.groups, axis=0)
    error = weight.dequantized.astype(np.float64) - layer.weight
    bias = np.zeros(rows) if layer.bias is None else layer.bias.astype(np.float64)
    return np.asarray(bias - (error * per_row).sum(axis=1), np.float32)


def tap_coverage(layer: Layer, input_shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Share of the output positions at which each kernel tap meets the image, not the padding.

    Returns:
        ``(kernel positions,) float64`` in [0, 1]; ones where shape or explicit pads are missing.
    """
    size = input_shape[1:]
    rank = len(layer.kernel)
    pads = layer.node.attributes.get_ints("pads", (0,) * (2 * rank))
    if rank == 0 or len(size) != rank or "auto_pad" in layer.node.attributes:
        return np.ones(int(np.prod(layer.kernel, dtype=np.int64)) if rank else 1)
    strides = layer.node.attributes.get_ints("strides", (1,) * rank)
    dilations = layer.node.attributes.get_ints("dilations", (1,) * rank)
    coverage = np.ones(())
    for axis in range(rank):
        reach = dilations[axis] * (layer.kernel[axis] - 1) + 1
        outputs = (size[axis] + pads[axis] + pads[rank + axis] - reach) // strides[axis] + 1
        taps = np.arange(layer.kernel[axis])[:, None] * dilations[axis]
        at = np.arange(max(outputs, 1))[None, :] * strides[axis] - pads[axis] + taps
        met = ((at >= 0) & (at < size[axis])).mean(axis=1)
        coverage = np.multiply.outer(coverage, met)
    return np.asarray(coverage.reshape(-1))


def shifted_bias(item: QuantizedLayer, shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """The bias moved by a shift, but not beyond what INT32 holds at the scale of the products.

    Behind a residual Add the shift is that of the whole sum, while a branch that is nearly dead has
    scales so small that its bias could not hold it. Engines make INT32 of a float bias, too.
    """
    bias = np.zeros(shift.shape) if item.bias is None else item.bias.astype(np.float64)
    unit = item.input_scale * np.broadcast_to(item.weight.scales, shift.shape).astype(np.float64)
    limit = np.maximum(BIAS_LIMIT * unit, np.abs(bias))
    return np.clip(bias + shift, -limit, limit).astype(np.float32)


def input_stats(layer: Layer, table: CalibrationTable) -> TensorStats:
    """Statistics of what a layer reads; without channel moments where those are not of its sums.

    A dense layer multiplies along the last axis; the moments are of the first one.
    """
    value = layer.node.inputs[0]
    assert value is not None
    stats = table.tensors[value_name(value)]
    if not layer.kernel and len(stats.shape) != 1:
        empty = np.zeros(0, np.float32)
        return replace(stats, channel_mean=empty, channel_square=empty)
    return stats
