"""Fake quantization: the forward pass is ONNX's, the gradients are LSQ's, the integers are safe."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgeres.graph.layers import Layer
from edgeres.quantization.qdq import QuantizedLayer
from edgeres.quantization.saturation import prove
from edgeres.quantization.scales import (
    MIN_SCALE,
    QuantParams,
    dequantize_array,
    quantize_array,
    quantize_bias,
)
from edgeres.quantization.weights import quantize_weight
from edgeres.training.fake_quant import (
    SMALLEST_SHARE,
    ActivationQuantizer,
    QuantizedParameters,
    keep_scales_valid,
)


def layer_item(
    rows: int = 6, channels: int = 4, *, saturating: bool = False, per_channel: bool = True
) -> QuantizedLayer:
    random = np.random.default_rng(0)
    weight = random.uniform(0.5, 1.0, (rows, channels * 9)).astype(np.float32)
    weight *= random.choice([-1, 1], weight.shape)
    layer = Layer(
        node=ir.node("Conv", []),
        weight=weight,
        bias=random.standard_normal(rows).astype(np.float32),
        kernel=(3, 3),
        groups=1,
        channel_axis=0,
        stored_shape=(rows, channels, 3, 3),
    )
    quantized = quantize_weight(layer, saturating=saturating, per_channel=per_channel)
    return QuantizedLayer(layer, quantized, layer.bias, 0.02)


@pytest.mark.parametrize(
    "params", [QuantParams(0.013, 0, "uint8"), QuantParams(0.05, 117, "uint8"),
               QuantParams(0.03, 0, "int8")],
)  # fmt: skip
def test_forward_is_quantize_then_dequantize(params: QuantParams) -> None:
    x = np.random.default_rng(1).normal(0, 3, 4000).astype(np.float32)
    x[:50] = (np.arange(50) + 0.5) * np.float32(params.scale)  # ties
    fake = ActivationQuantizer(params, (4000,))(torch.from_numpy(x))
    expected = dequantize_array(quantize_array(x, params), params)
    assert np.array_equal(fake.detach().numpy(), expected)


def test_gradients_are_those_of_the_paper() -> None:
    quantizer = ActivationQuantizer(QuantParams(0.5, 0, "int8"), (4,))
    x = torch.tensor([0.6, -0.9, 100.0, -100.0], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 5.0])
    (quantizer(x) * upstream).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    # Equation 3: round(v) - v inside, the bound outside; equation of section 2.2 for its factor.
    by_hand = 1 * (1 - 1.2) + 2 * (-2 + 1.8) + 3 * 127 + 5 * -128
    grad = quantizer.scale.grad
    assert grad is not None
    assert float(grad) == pytest.approx(by_hand / math.sqrt(4 * 128), rel=1e-5)


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_start_as_post_training_quantization_left_them(per_channel: bool) -> None:
    item = layer_item(saturating=True, per_channel=per_channel)
    part = QuantizedParameters(item, saturating=True, int32_bias=True)
    assert np.array_equal(part.whole().numpy(), item.weight.values)
    weight, bias = part(torch.tensor(item.input_scale))
    assert np.array_equal(weight.detach().numpy(), item.weight.dequantized)
    assert bias is not None
    assert item.bias is not None
    scales = np.broadcast_to(item.weight.scales, item.bias.shape)
    stored = quantize_bias(item.bias, item.input_scale, scales)
    expected = stored.astype(np.float32) * (np.float32(item.input_scale) * scales)
    assert np.array_equal(bias.detach().numpy(), expected)
    (weight.sum() + bias.sum()).backward()
    assert part.bias is not None
    assert part.bias.grad is not None
    assert bool((part.bias.grad == 1).all())
    assert part.scale.grad is not None
    assert part.scale.grad.shape == part.scale.shape


def test_moved_weights_stay_safe_while_they_change() -> None:
    item = layer_item(saturating=True)
    part = QuantizedParameters(item, saturating=True, int32_bias=False)
    plain = QuantizedParameters(item, saturating=False, int32_bias=False)
    with torch.no_grad():
        for module in (part, plain):
            module.weight.mul_(1.5)
    whole, rounded = (module.whole().numpy().astype(np.int8) for module in (part, plain))
    assert prove(whole, part.packings).safe
    assert not prove(rounded, part.packings).safe


def test_a_wild_step_cannot_make_a_scale_vanish() -> None:
    quantizer = ActivationQuantizer(QuantParams(0.5, 0, "int8"), (4,))
    part = QuantizedParameters(layer_item(), saturating=False, int32_bias=False)
    tiny = ActivationQuantizer(QuantParams(MIN_SCALE, 0, "int8"), (4,), fixed=True)
    before = part.scale.detach().clone()
    with torch.no_grad():
        quantizer.scale.fill_(-3.0)
        part.scale[0] = 0.0
    network = torch.nn.ModuleList([quantizer, part, tiny])
    keep_scales_valid(network)
    assert float(quantizer.scale.detach()) == 0.5 * SMALLEST_SHARE
    assert float(part.scale.detach()[0]) == pytest.approx(float(before[0]) * SMALLEST_SHARE)
    assert torch.equal(part.scale[1:], before[1:])
    assert float(tiny.scale.detach()) == MIN_SCALE
    assert not tiny.scale.requires_grad


@pytest.mark.parametrize("least", [2.0**-60, 2.0**-10])
def test_scales_end_at_what_the_rule_set_holds(least) -> None:
    """Far below FP16's smallest number where the rule set holds such scales, above it otherwise."""
    small = ActivationQuantizer(QuantParams(2.0**-40, 0, "int8"), (4,), least_scale=least)
    item = layer_item()
    item = replace(item, weight=replace(item.weight, scales=item.weight.scales * 2.0**-40))
    part = QuantizedParameters(item, saturating=False, int32_bias=False, least_scale=least)
    network = torch.nn.ModuleList([small, part])
    start = part.scale.detach().clone()
    keep_scales_valid(network)
    assert float(small.scale.detach()) == max(2.0**-40, least)
    assert torch.equal(part.scale.detach(), start.clamp(min=least))
