"""Files that engines run though ONNX's checker refuses them: unsorted nodes, outputs unshaped."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgeres.errors import ModelError
from edgeres.exporting.file_order import put_in_order
from edgeres.exporting.import_onnx import import_onnx

NETWORK = """
agraph (float[N,3,8,8] x) => (float[N,4] y) {
  c = Conv<pads=[1,1,1,1]>(x, w)
  r = Relu(c)
  s = Sigmoid(c)
  m = Mul(r, s)
  p = GlobalAveragePool(m)
  y = Flatten(p)
}
"""


@pytest.fixture
def model() -> onnx.ModelProto:
    graph = parser.parse_graph(NETWORK)
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weights, "w"))
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def reordered(model: onnx.ModelProto, order: list[int]) -> onnx.ModelProto:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes[place] for place in order)
    return model


def test_nodes_that_stand_in_front_of_what_they_read_are_put_behind_it(model, tmp_path):
    onnx.save(reordered(model, [5, 3, 0, 2, 1, 4]), tmp_path / "in.onnx")
    made = import_onnx(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert made.dynamic_batch
    nodes = put_in_order(onnx.load(tmp_path / "in.onnx")).graph.node
    assert [node.output[0] for node in nodes] == ["c", "s", "r", "m", "p", "y"]


def test_a_file_in_order_stays_the_same_object(model):
    assert put_in_order(model) is model


def test_an_output_without_a_shape_gets_it(model, tmp_path):
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "in.onnx")
    made = import_onnx(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert made.num_classes == 4


def test_a_circle_is_named_by_the_checker(model, tmp_path):
    model.graph.node[0].input[0] = "m"
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="topologically sorted"):
        import_onnx(tmp_path / "in.onnx", tmp_path / "out.onnx")


def test_a_branch_reads_what_it_captures(model):
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["r"], ["b"])], "b",
        [], [onnx.helper.make_tensor_value_info("b", 1, None)],
    )  # fmt: skip
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.insert(
        0, onnx.helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=branch)
    )
    names = [node.output[0] for node in put_in_order(model).graph.node]
    assert names.index("i") > names.index("r")


def test_a_weight_among_the_inputs_has_the_shape_of_its_numbers(model, tmp_path):
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, ["any", 3, 3, 3]))
    onnx.save(model, tmp_path / "in.onnx")
    made = import_onnx(tmp_path / "in.onnx", tmp_path / "out.onnx")
    assert made.num_classes == 4
