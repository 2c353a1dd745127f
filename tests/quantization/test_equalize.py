from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edgeres.graph.layers import layer_of, load_model
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.equalize import Link, apply_factors, equalize, equalizing_factors, links
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits

from .conftest import FUSING, NetBuilder, resnet_onnx, smooth_images, sqnr_db


def bottleneck(path, *, seed=0, groups=1, between="Relu", shared=False):
    """A bottleneck block of three convolutions with a skip, and a small dense head."""
    net = NetBuilder(seed)
    x = net.relu("stem.relu", net.conv("stem.conv", "input", (8, 3, 3, 3)))
    y = net.add(between, "relu1", [net.conv("conv1", x, (8, 8, 1, 1))])
    y = net.relu("relu2", net.conv("conv2", y, (8, 8 // groups, 3, 3), groups=groups, bias=False))
    if shared:
        net.conv("other", y, (8, 8, 1, 1))
    y = net.conv("conv3", y, (8, 8, 1, 1))
    x = net.relu("relu3", net.add("Add", "add", [y, x]))
    net.head(x, 8, 10)
    return net.save(path, (3, 16, 16), 10)


def unbalanced(path, out, ratio):
    """The same function with channels of the blocks' inner tensors ``ratio`` apart."""
    model = load_model(path)
    factors = {}
    for link in links(model.graph):
        count = len(next(layer_of(n) for n in model.graph if n.name == link.first).weight)
        factors[link] = np.where(np.arange(count) % 3 == 0, 1.0, ratio)
    apply_factors(model.graph, factors)
    ir.save(model, out)
    return out


def logits(path, images):
    return ort.InferenceSession(str(path)).run(None, {"input": images})[0]


def test_only_layers_inside_blocks_are_linked(resnet, tmp_path):
    inside = [Link(f"block{i}.conv1", f"block{i}.conv2") for i in (1, 2, 3)]
    assert list(links(load_model(resnet).graph)) == inside
    path = bottleneck(tmp_path / "a.onnx")
    assert list(links(load_model(path).graph)) == [Link("conv1", "conv2"), Link("conv2", "conv3")]


@pytest.mark.parametrize("change", [{"between": "Sigmoid"}, {"shared": True}])
def test_what_would_notice_a_factor_is_left_alone(tmp_path, change):
    found = links(load_model(bottleneck(tmp_path / "a.onnx", **change)).graph)
    lost = Link("conv1", "conv2") if "between" in change else Link("conv2", "conv3")
    assert lost not in found
    assert len(found) == 1


@given(seed=st.integers(0, 2**31), groups=st.sampled_from([1, 2, 8]))
@settings(max_examples=10)
def test_the_function_is_the_same_bit_for_bit(tmp_path_factory, seed, groups):
    folder = tmp_path_factory.mktemp("equalize")
    path = bottleneck(folder / "net.onnx", seed=seed, groups=groups)
    path = unbalanced(path, folder / "a.onnx", 8.0)
    factors = equalize(path, folder / "b.onnx")
    assert any((by_channel != 1).any() for by_channel in factors.values())
    images = smooth_images(4)
    np.testing.assert_array_equal(logits(path, images), logits(folder / "b.onnx", images))
    before, after = onnx.load(path), onnx.load(folder / "b.onnx")
    assert [n.name for n in before.graph.node] == [n.name for n in after.graph.node]


def test_weights_around_a_channel_come_to_like_size(resnet, tmp_path):
    path = unbalanced(resnet, tmp_path / "a.onnx", 32.0)
    equalize(path, tmp_path / "b.onnx")

    def spread(file):
        found = {n.name: layer_of(n) for n in load_model(file).graph}
        made = np.abs(found["block1.conv1"].weight).max(axis=1)
        read = np.abs(found["block1.conv2"].weight).reshape(8, 8, 9).max(axis=(0, 2))
        return np.ptp(np.log2(made / read))

    assert spread(path) > 8.0
    # A factor counts twice in the ratio and is at most a factor of sqrt(2) off.
    assert spread(tmp_path / "b.onnx") <= 2.0


def test_dead_channels_keep_a_factor_of_one(resnet, tmp_path):
    model = onnx.load(resnet)
    for tensor in model.graph.initializer:
        if tensor.name == "block1.conv1.weight":
            weight = numpy_helper.to_array(tensor).copy()
            weight[2] = 0.0
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, tmp_path / "dead.onnx")
    found = equalizing_factors(load_model(tmp_path / "dead.onnx").graph)
    assert found[Link("block1.conv1", "block1.conv2")][2] == 1.0


def test_int8_gains_where_channels_are_unlike(tmp_path, images, test_images):
    path = unbalanced(resnet_onnx(tmp_path / "net.onnx"), tmp_path / "a.onnx", 64.0)
    equalize(path, tmp_path / "b.onnx")
    quality = []
    for file in (path, tmp_path / "b.onnx"):
        quantize(file, calibrate(file, [images]), FUSING, tmp_path / "q.onnx")
        got = simulated_logits(tmp_path / "q.onnx", [test_images])
        quality.append(sqnr_db(logits(path, test_images), got))
    assert quality[1] > quality[0] + 3.0
