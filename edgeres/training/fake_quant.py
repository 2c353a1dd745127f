"""Learned-step-size fake quantization (LSQ; Esser et al., arXiv:1902.08153) of weights and tensors.

The forward pass computes exactly what ``QuantizeLinear -> DequantizeLinear`` computes in float32:
division by the scale, ties to even, clipping, multiplication. The backward pass is LSQ's: the
rounding counts as the identity inside the range and as a constant outside, for the input and for
the scale, and the scale's gradient is multiplied with ``1 / sqrt(numbers * largest integer)``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgeres.quantization.pairing import Pairs, pairings
from edgeres.quantization.qdq import QuantizedLayer
from edgeres.quantization.scales import INT_LIMITS, MIN_SCALE, WEIGHT_LEVELS, QuantParams
from edgeres.quantization.weights import whole_weights

#: No scale falls below this share of its calibrated start: a single wild step of the optimizer
#: must not make one vanish, from where no gradient leads back.
SMALLEST_SHARE = 1 / 8


class LearnedStep(torch.autograd.Function):
    """``whole * scale`` with LSQ's gradients (equations 3 and 5 of the paper)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        whole: Tensor,
        low: float,
        high: float,
        gradient_scale: float,
    ) -> Tensor:
        """Dequantizes.

        Args:
            ctx: Of autograd.
            x: What ``whole`` was made from.
            scale: Of a shape that broadcasts to that of ``x``.
            whole: Integers ``q - zero_point`` as float32, shape of ``x``.
            low: Smallest of them.
            high: Largest of them.
            gradient_scale: Factor on the gradient of ``scale``.
        """
        ctx.save_for_backward(x, scale, whole)
        ctx.settings = (low, high, gradient_scale)
        return whole * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of ``x`` and ``scale``."""
        (gradient,) = gradients
        x, scale, whole = ctx.saved_tensors
        low, high, gradient_scale = ctx.settings
        exact = x / scale
        inside = (exact >= low) & (exact <= high)
        to_x = gradient * inside if ctx.needs_input_grad[0] else None
        step = (whole - exact * inside) * gradient
        return to_x, step.sum_to_size(scale.shape) * gradient_scale, None, None, None, None


class ActivationQuantizer(nn.Module):
    """Fake quantization of one activation tensor; scale learned, zero point kept.

    Attributes:
        scale: ``() float32``.
    """

    def __init__(
        self,
        params: QuantParams,
        shape: tuple[int, ...],
        *,
        fixed: bool = False,
        least_scale: float = MIN_SCALE,
    ) -> None:
        """Starts from calibrated parameters.

        Args:
            params: Scale, zero point and type.
            shape: Of the tensor without the batch.
            fixed: The scale is not trained: that of a tensor that was always zero means nothing,
                that of pixels is known.
            least_scale: Smallest scale that the rule set holds.
        """
        super().__init__()
        low, high = INT_LIMITS[params.dtype]
        self.params = params
        self.low, self.high = float(low - params.zero_point), float(high - params.zero_point)
        self.gradient_scale = 1 / math.sqrt(max(1, math.prod(shape)) * max(-self.low, self.high))
        scale = torch.tensor(params.scale, dtype=torch.float32)
        self.scale = nn.Parameter(scale, requires_grad=not fixed)
        self.least = max(least_scale, params.scale * SMALLEST_SHARE)

    def whole(self, x: Tensor) -> Tensor:
        """Integers ``q - zero_point`` as float32, without gradient."""
        with torch.no_grad():
            return torch.round(x / self.scale).clamp_(self.low, self.high)

    def forward(self, x: Tensor) -> Tensor:
        """Quantizes and dequantizes."""
        fake: Tensor = LearnedStep.apply(  # type: ignore[no-untyped-call]
            x, self.scale, self.whole(x), self.low, self.high, self.gradient_scale
        )
        return fake

    def learned(self) -> QuantParams:
        """The parameters as they are now."""
        return QuantParams(float(self.scale.detach()), self.params.zero_point, self.params.dtype)


class QuantizedParameters(nn.Module):
    """Weight and bias of one layer, fake-quantized as the rule set stores them.

    Attributes:
        weight: ``(M, K) float32``.
        scale: ``(M,)`` or ``(1,) float32``.
        bias: ``(M,) float32`` or ``None``.
    """

    def __init__(
        self,
        item: QuantizedLayer,
        *,
        saturating: bool,
        int32_bias: bool,
        least_scale: float = MIN_SCALE,
    ) -> None:
        """Starts from what post-training quantization chose.

        Args:
            item: The layer with scales, corrected bias and importance of errors.
            saturating: Move pairs of weights so that no INT8 sum can leave int16.
            int32_bias: The bias is stored as int32 with scale ``s_x * s_w``.
            least_scale: Smallest scale that the rule set holds.
        """
        super().__init__()
        layer = item.layer
        columns = layer.weight.shape[1]
        self.packings = pairings(columns, layer.kernel) if saturating else ()
        self.importance = item.weight.importance
        self.weight = nn.Parameter(torch.from_numpy(_start(item, self.packings)))
        self.scale = nn.Parameter(torch.from_numpy(item.weight.scales.copy()))
        self.bias = None if item.bias is None else nn.Parameter(torch.from_numpy(item.bias.copy()))
        self.register_buffer("least", (self.scale.detach() * SMALLEST_SHARE).clamp(min=least_scale))
        self.int32_bias = int32_bias
        numbers = columns if self.scale.numel() > 1 else layer.weight.size
        self.gradient_scale = 1 / math.sqrt(numbers * WEIGHT_LEVELS)

    @torch.no_grad()
    def whole(self) -> Tensor:
        """``(M, K)`` integers as float32: what :func:`whole_weights` gives, without gradient."""
        weight, scale = self.weight, self.scale[:, None]
        if not self.packings:
            return torch.round(weight / scale).clamp_(-WEIGHT_LEVELS, WEIGHT_LEVELS)
        whole, _ = whole_weights(
            weight.cpu().numpy(), scale.cpu().numpy(), self.importance, self.packings
        )
        return torch.from_numpy(whole).to(weight.device)

    def forward(self, input_scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weight ``(M, K)`` and bias ``(M,)`` that the engine computes with.

        Args:
            input_scale: Scale ``s_x`` of the layer's input; needed for an int32 bias.
        """
        weight: Tensor = LearnedStep.apply(  # type: ignore[no-untyped-call]
            self.weight,
            self.scale[:, None],
            self.whole(),
            -float(WEIGHT_LEVELS),
            float(WEIGHT_LEVELS),
            self.gradient_scale,
        )
        if self.bias is None or not self.int32_bias or input_scale is None:
            return weight, self.bias
        with torch.no_grad():
            # As quantize_bias: the product of the scales in float32, the division in float64.
            scale = (input_scale * self.scale).expand(self.bias.shape)
            stored = torch.round(self.bias.double() / scale.double())
            rounded = stored.float() * scale
        return weight, rounded + (self.bias - self.bias.detach())


@torch.no_grad()
def keep_scales_valid(module: nn.Module) -> None:
    """Lifts every scale that a step of the optimizer took below its least value."""
    for part in module.modules():
        if isinstance(part, ActivationQuantizer | QuantizedParameters):
            part.scale.copy_(torch.maximum(part.scale, torch.as_tensor(part.least)))


def _start(item: QuantizedLayer, packings: tuple[Pairs, ...]) -> NDArray[np.float32]:
    """Float weights that :func:`whole_weights` turns into the integers of the layer."""
    weight, scale = item.layer.weight, item.weight.scales[:, None]
    plain, _ = whole_weights(weight, scale, item.weight.importance, packings)
    if np.array_equal(plain, item.weight.values):
        return weight.copy()
    # Post-training quantization has balanced its kernels: their integers stand for themselves.
    nearest = np.clip(np.rint(weight / scale), -WEIGHT_LEVELS, WEIGHT_LEVELS)
    return np.where(nearest == item.weight.values, weight, item.weight.values * scale)
