from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest

from edgeres.graph.layers import load_model
from edgeres.quantization.placement import place

from .conftest import FUSING, SYMMETRIC, NetBuilder


@pytest.fixture
def graph(resnet) -> ir.Graph:
    return load_model(resnet).graph


def readers(placement, tensor):
    return {(node.name, index) for node, index in placement.readers[tensor]}


def test_an_engine_that_fuses_dq_op_q_has_every_stored_tensor_quantized(graph):
    placement = place(graph, FUSING)
    assert set(placement.tensors) == {
        "input", "stem.relu_out", "stem.pool_out",
        "block1.relu1_out", "block1.conv2_out", "block1.relu2_out",
        "block2.relu1_out", "block2.conv2_out", "block2.down_out", "block2.relu2_out",
        "block3.relu1_out", "block3.conv2_out", "block3.relu2_out",
        "pool_out", "flatten_out",
    }  # fmt: skip
    assert readers(placement, "block1.relu2_out") == {("block2.conv1", 0), ("block2.down", 0)}
    assert placement.float_nodes == {}
    assert len(placement.layers) == 9
    assert "logits" not in placement.tensors


def test_residual_skip_leaves_the_main_path_to_fuse(graph):
    placement = place(graph, SYMMETRIC)
    assert not {"block1.conv2_out", "block2.conv2_out", "stem.relu_out"} & set(placement.tensors)
    # Identity block: the skip is the pooled tensor; projection block: the 1x1 convolution.
    assert readers(placement, "stem.pool_out") == {("block1.conv1", 0), ("block1.add", 1)}
    assert readers(placement, "block2.down_out") == {("block2.add", 1)}


def test_ops_that_only_move_values_share_the_scale_of_their_input(graph):
    source = place(graph, FUSING).source
    assert source["stem.pool_out"] == "stem.relu_out"
    assert source["flatten_out"] == "pool_out"
    assert source["pool_out"] == "pool_out"


def test_unsupported_ops_stay_float_with_a_reason(graph):
    rules = replace(FUSING, ops=FUSING.ops - {"Add"})
    placement = place(graph, rules)
    assert set(placement.float_nodes) == {"block1.add", "block2.add", "block3.add"}
    assert "Add in float" in placement.float_nodes["block1.add"]
    assert "block1.add" not in placement.quantized_nodes


def unusual_net(tmp_path):
    """A sigmoid gate, an Add of a constant, and a convolution whose weight is computed."""
    import numpy as np

    net = NetBuilder(0)
    x = net.relu("relu", net.conv("conv", "input", (4, 3, 3, 3)))
    gate = net.add("Sigmoid", "gate", [x])
    y = net.add("Mul", "scaled", [x, gate])
    y = net.add("Add", "shift", [y, net.weight("shift.value", np.ones((1, 4, 1, 1)))])
    w = net.add("Identity", "computed", [net.weight("raw", np.ones((4, 4, 1, 1)))])
    y = net.add("Conv", "strange", [y, w], kernel_shape=[1, 1])
    net.head(y, 4, 10)
    return net.save(tmp_path / "unusual.onnx", (3, 16, 16), 10)


def test_layers_without_a_constant_weight_and_constant_adds_stay_float(tmp_path):
    placement = place(load_model(unusual_net(tmp_path)).graph, FUSING)
    assert {layer.name for layer in placement.layers} == {"conv", "fc"}
    assert set(placement.float_nodes) == {"gate", "scaled", "shift", "strange"}
    assert "no constant" in placement.float_nodes["strange"]
    assert "one input of this Add is a constant" in placement.float_nodes["shift"]


def test_two_rectifiers_behind_one_convolution(tmp_path):
    net = NetBuilder(0)
    x = net.conv("conv", "input", (4, 3, 3, 3))
    y = net.add("Add", "add", [net.relu("a", x), net.relu("b", x)])
    net.head(y, 4, 10)
    path = net.save(tmp_path / "two.onnx", (3, 16, 16), 10)
    placement = place(load_model(path).graph, FUSING)
    assert readers(placement, "conv_out") == {("a", 0), ("b", 0)}
