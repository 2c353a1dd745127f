from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgeres.errors import UsageError
from edgeres.graph.layers import Layer
from edgeres.quantization.moments import few_patches, patch_moments


def conv(groups=1, stride=1, dilation=1, pads=(1, 1, 1, 1), channels=4):
    random = np.random.default_rng(0)
    w = random.integers(-9, 9, (4, channels // groups, 3, 3)).astype(np.float32)
    attributes = {
        "strides": [stride] * 2, "dilations": [dilation] * 2, "pads": list(pads), "group": groups,
    }  # fmt: skip
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    layer = Layer(
        node=next(iter(ir.from_proto(model).graph)),
        weight=w.reshape(4, -1),
        bias=None,
        kernel=(3, 3),
        groups=groups,
        channel_axis=0,
        stored_shape=w.shape,
    )
    return layer, lambda x: session.run(None, {"x": x})[0]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 2, 0)])
def test_moments_predict_mean_and_energy_of_the_real_output(groups, stride, dilation, pads):
    layer, run = conv(groups, stride, dilation, pads)
    x = np.random.default_rng(1).integers(-40, 255, (5, 4, 8, 9)).astype(np.float32)
    y = run(x).astype(np.float64)
    moments = patch_moments(layer, x)
    weight = layer.weight.astype(np.float64).reshape(groups, 4 // groups, -1)
    mean = np.einsum("gmk,gk->gm", weight, moments.mean).reshape(-1)
    energy = np.einsum("gmk,gkl,gml->gm", weight, moments.second, weight).reshape(-1)
    spread = np.einsum("gmk,gkl,gml->gm", weight, moments.covariance(), weight).reshape(-1)
    np.testing.assert_allclose(mean, y.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(energy, np.square(y).mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(spread, y.var(axis=(0, 2, 3)), rtol=1e-6)
    assert moments.patches == y[:, 0].size


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_moments_are_those_of_patches_taken_one_by_one(groups, stride, dilation):
    """Against plain loops over positions, in float64, of the largest integers that there are."""
    layer, _ = conv(groups, stride, dilation, (0, 1, 2, 0))
    x = np.random.default_rng(1).integers(200, 256, (9, 4, 9, 8)).astype(np.uint8)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (1, 0))).astype(np.float64)
    reach = 2 * dilation + 1
    patches = [
        image[:, top : top + reach : dilation, left : left + reach : dilation]
        for image in padded
        for top in range(0, padded.shape[2] - reach + 1, stride)
        for left in range(0, padded.shape[3] - reach + 1, stride)
    ]
    plain = np.stack(patches).reshape(len(patches), groups, -1)
    moments = patch_moments(layer, x)
    assert moments.patches == len(patches)
    np.testing.assert_allclose(moments.mean, plain.mean(axis=0), rtol=1e-12)
    second = np.einsum("pgk,pgl->gkl", plain, plain) / len(patches)
    np.testing.assert_allclose(moments.second, second, rtol=1e-5)
    spread = second - np.einsum("gk,gl->gkl", plain.mean(axis=0), plain.mean(axis=0))
    np.testing.assert_allclose(moments.covariance(), spread, atol=1e-5 * second.max())


def test_of_many_patches_the_same_few_are_taken():
    layer, _ = conv()
    x = np.random.default_rng(1).integers(0, 255, (8, 4, 16, 16)).astype(np.float32)
    few, again = (patch_moments(layer, x, limit=500) for _ in range(2))
    assert few.patches == 500
    np.testing.assert_array_equal(few.second, again.second)
    everything = patch_moments(layer, x)
    np.testing.assert_allclose(few.mean, everything.mean, rtol=0.2)


def test_dense_layers_have_one_position_and_other_shapes_are_refused():
    weight = np.ones((3, 5), np.float32)
    layer = Layer(ir.node("Gemm", [], name="fc"), weight, None, (), 1, 0, (3, 5))
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    moments = patch_moments(layer, x)
    np.testing.assert_allclose(moments.second[0], x.T @ x / 4)
    with pytest.raises(UsageError, match="fc reads 5 channels"):
        patch_moments(layer, x[:, :4])


@pytest.mark.parametrize("stride", [1, 2])
def test_few_patches_are_those_that_moments_are_of(stride):
    layer, _ = conv(stride=stride, channels=64)
    x = np.random.default_rng(1).integers(0, 255, (9, 64, 5, 4)).astype(np.uint8)
    few = x if stride == 2 else x[:2]
    patches = few_patches(layer, few, zero=3)
    assert patches is not None
    moments = patch_moments(layer, few, zero=3)
    assert len(patches) == moments.patches
    np.testing.assert_allclose(patches.mean(axis=0), moments.mean[0], rtol=1e-5)
    second = patches.T.astype(np.float64) @ patches / len(patches)
    np.testing.assert_allclose(second, moments.second[0], rtol=1e-4)


def test_many_patches_and_groups_have_moments_only():
    x = np.zeros((9, 64, 9, 9), np.uint8)
    assert few_patches(conv(channels=64)[0], x) is None
    assert few_patches(conv(channels=64, groups=2)[0], x[:1, :, :3, :3]) is None
