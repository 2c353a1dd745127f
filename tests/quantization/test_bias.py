from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgeres.errors import UsageError
from edgeres.graph.layers import layer_of
from edgeres.quantization.bias import corrected_bias, tap_coverage
from edgeres.quantization.weights import QuantizedWeight, prove


def conv(size: int = 5, *, stride: int = 2, groups: int = 1, bias: bool = True):
    """A padded convolution as layer and as a function of (images, weight, bias)."""
    random = np.random.default_rng(0)
    w = random.standard_normal((4, 4 // groups, 3, 3)).astype(np.float32)
    b = random.standard_normal(4).astype(np.float32)
    names = ["x", "w", "b"] if bias else ["x", "w"]
    node = helper.make_node(
        "Conv", names, ["y"], name="conv", strides=[stride] * 2, pads=[1] * 4, group=groups
    )
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", info, out)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tensors = [onnx.numpy_helper.from_array(w, "w"), onnx.numpy_helper.from_array(b, "b")]
    inits = tensors if bias else tensors[:1]
    inner = helper.make_graph([node], "g", info[:1], out, inits)
    layer = layer_of(next(iter(ir.from_proto(helper.make_model(inner)).graph)))
    assert layer is not None

    def run(x, matrix, shift):
        feeds = {"x": x, "w": matrix.reshape(w.shape)}
        if bias:
            return session.run(None, feeds | {"b": shift})[0]
        return session.run(None, feeds)[0] + shift[None, :, None, None]

    return layer, run


def coarse(layer) -> QuantizedWeight:
    """Weights so rough that the shift is large: seven levels."""
    scales = (np.abs(layer.weight).max(axis=1) / 3).astype(np.float32)
    values = np.rint(layer.weight / scales[:, None]).astype(np.int8)
    return QuantizedWeight(values, scales, (), prove(values, ()), 0.0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_mean_output_is_that_of_the_float_layer(groups, bias):
    layer, run = conv(groups=groups, bias=bias)
    random = np.random.default_rng(1)
    # Constant over an image, so that the channel mean is all there is to know, padding included.
    x = np.repeat(random.uniform(0, 2, (64, 4, 1, 1)), 25, axis=2).reshape(64, 4, 5, 5)
    x = x.astype(np.float32)
    weight = coarse(layer)
    plain = np.zeros(4, np.float32) if layer.bias is None else layer.bias
    wanted = run(x, layer.weight, plain).mean(axis=(0, 2, 3))
    before = run(x, weight.dequantized, plain).mean(axis=(0, 2, 3))
    shift = corrected_bias(layer, weight, x.mean(axis=(0, 2, 3)), (4, 5, 5))
    after = run(x, weight.dequantized, shift).mean(axis=(0, 2, 3))
    assert np.abs(before - wanted).max() > 0.1
    np.testing.assert_allclose(after, wanted, atol=1e-4)


def test_coverage_counts_the_padding():
    layer, _ = conv(size=5, stride=1)
    # Three of five rows meet the first tap row of a 3x3 kernel fully: 4/5, middle 1, last 4/5.
    expected = np.multiply.outer([0.8, 1.0, 0.8], [0.8, 1.0, 0.8]).reshape(-1)
    np.testing.assert_allclose(tap_coverage(layer, (4, 5, 5)), expected)
    np.testing.assert_array_equal(tap_coverage(layer, ()), np.ones(9))


def test_means_of_another_layer_are_refused():
    layer, _ = conv()
    with pytest.raises(UsageError, match="reads 4 channels"):
        corrected_bias(layer, coarse(layer), np.zeros(3, np.float32))
