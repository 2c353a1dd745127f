"""From a range to a scale and a zero point, and between float and integer.

Affine quantization as in ONNX ``QuantizeLinear``: ``q = clip(round(x / scale) + zero_point)`` with
ties to even, ``x' = (q - zero_point) * scale`` (Jacob et al., arXiv 1712.05877, equation 1).
All functions are pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import UsageError

IntType = Literal["uint8", "int8"]

#: Smallest positive number of FP16. A smaller scale becomes zero where an engine keeps scales in
#: FP16, and engines refuse a zero scale; a rule set says what its engine holds (``least_scale``).
MIN_SCALE = 2.0**-24
#: Range of a tensor that was always zero. Any range is right for what never comes; one as small as
#: a scale can be would drive the bias of the next layer out of int32, and its weights to zero.
EMPTY_RANGE = 1.0
#: Weights use -127..127: symmetric, so that a negated weight is representable too.
WEIGHT_LEVELS = 127
#: Largest magnitude of a stored INT32 bias; the other half of the range is left to the products.
BIAS_LIMIT = 2**30

#: Smallest and largest integer of each activation type.
INT_LIMITS: dict[IntType, tuple[int, int]] = {"uint8": (0, 255), "int8": (-128, 127)}


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of one tensor; ``scale`` is exactly representable in float32."""

    scale: float
    zero_point: int
    dtype: IntType

    @property
    def low(self) -> float:
        """Smallest real value that can be represented."""
        return (INT_LIMITS[self.dtype][0] - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """Largest real value that can be represented."""
        return (INT_LIMITS[self.dtype][1] - self.zero_point) * self.scale


def activation_params(
    low: float, high: float, dtype: IntType, *, symmetric: bool, least: float = MIN_SCALE
) -> QuantParams:
    """Scale and zero point that cover ``[low, high]`` and represent zero exactly.

    The range is widened to hold zero. An empty range (a tensor that was always zero) becomes
    ``[0, EMPTY_RANGE]``; no scale is below ``least``.

    Raises:
        UsageError: The range is not finite or upside down, or uint8 is asked to be symmetric.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise UsageError(f"a range needs finite low <= high; got [{low}, {high}].")
    if symmetric and dtype != "int8":
        raise UsageError("symmetric activations are int8; uint8 has no zero in its middle.")
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        high = EMPTY_RANGE
    if symmetric:
        scale = float32_scale(max(-low, high) / 127, least)
        return QuantParams(scale, 0, dtype)
    scale = float32_scale((high - low) / 255, least)
    smallest, largest = INT_LIMITS[dtype]
    zero_point = int(np.clip(round(smallest - low / scale), smallest, largest))
    return QuantParams(scale, zero_point, dtype)


def float32_scale(scale: float, least: float = MIN_SCALE) -> float:
    """Rounds a scale to float32 and keeps it at or above the least one."""
    return float(np.float32(max(scale, least)))


def quantize_array(x: NDArray[np.floating], params: QuantParams) -> NDArray[np.integer]:
    """Float to integer, element by element; same shape, dtype of ``params``."""
    low, high = INT_LIMITS[params.dtype]
    scaled = np.rint(np.asarray(x, np.float32) / np.float32(params.scale)) + params.zero_point
    whole: NDArray[np.integer] = np.clip(scaled, low, high).astype(params.dtype)
    return whole


def dequantize_array(q: NDArray[np.integer], params: QuantParams) -> NDArray[np.float32]:
    """Integer back to float32, element by element."""
    centred = q.astype(np.int32) - params.zero_point
    return np.asarray(centred.astype(np.float32) * np.float32(params.scale))


def least_bias_scale(bias: NDArray[np.floating], input_scale: float) -> NDArray[np.float64]:
    """Smallest weight scale per channel for which an INT32 bias cannot overflow.

    The bias is stored as ``round(b / (s_x * s_w))``; tiny weights with a large bias leave int32.
    Engines store a bias that the file holds in float in the same way. What a larger weight scale
    costs is never seen: a bias of ``2**30`` such steps makes one of 255 levels of the output 2**22
    of them.

    Args:
        bias: ``(M,)``.
        input_scale: Scale ``s_x`` of the layer's input.

    Returns:
        ``(M,) float64``.
    """
    return np.abs(np.asarray(bias, np.float64)) / (input_scale * BIAS_LIMIT)


def quantize_bias(
    bias: NDArray[np.floating], input_scale: float, weight_scales: NDArray[np.float32]
) -> NDArray[np.int32]:
    """INT32 bias with scale ``s_x * s_w``.

    Raises:
        UsageError: A value leaves int32; :func:`least_bias_scale` was not obeyed.
    """
    scales = (np.float32(input_scale) * weight_scales.astype(np.float32)).astype(np.float64)
    stored = np.rint(np.asarray(bias, np.float64) / scales)
    if np.abs(stored).max(initial=0.0) > 2**31 - 1:
        worst = int(np.abs(stored).argmax())
        raise UsageError(f"the bias of channel {worst} does not fit int32: {stored[worst]:.3g}.")
    return stored.astype(np.int32)
