from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from edgeres.errors import ModelError
from edgeres.quantization.lint import lint
from edgeres.quantization.quantize import quantize
from edgeres.recipe.quantize import QuantizeSettings

from .conftest import FUSING, SYMMETRIC

SAFE_RULES = replace(FUSING, name="saturating-u8", saturating=True)


@pytest.fixture(scope="module")
def files(resnet, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lint")
    made = {}
    for rules in (FUSING, SYMMETRIC, SAFE_RULES):
        made[rules.name] = folder / f"{rules.name}.onnx"
        quantize(resnet, table, rules, made[rules.name], QuantizeSettings())
    return made


class Edit:
    """A Q/DQ file with one thing changed."""

    def __init__(self, path):
        self.model = onnx.load(path)
        self.nodes = {node.name: node for node in self.model.graph.node}
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}

    def set(self, name, change):
        content = numpy_helper.to_array(self.tensors[name])
        self.tensors[name].CopyFrom(numpy_helper.from_array(np.asarray(change(content)), name))

    def add(self, name, content):
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(content), name))

    def bypass(self, node, index):
        """Lets an input read the float tensor before its Q/DQ pair."""
        dequantize = next(n for n in self.nodes.values() if node.input[index] in n.output)
        quantize = next(n for n in self.nodes.values() if dequantize.input[0] in n.output)
        node.input[index] = quantize.input[0]

    def save(self, path):
        onnx.save(self.model, path)
        return path


@pytest.mark.parametrize("rules", [FUSING, SYMMETRIC, SAFE_RULES], ids=lambda r: r.name)
def test_what_the_quantizer_writes_has_no_finding(files, rules):
    assert lint(files[rules.name], rules) == ()


def wrong_axis(e):
    attribute = next(a for a in e.nodes["block1.conv1.weight_DequantizeLinear"].attribute)
    attribute.i = 1


def fake_quantized_weight(e):
    e.add("w_float", np.zeros((8, 8, 3, 3), np.float32))
    dq = e.nodes["block1.conv1.weight_DequantizeLinear"]
    quantize = helper.make_node(
        "QuantizeLinear", ["w_float", dq.input[1], dq.input[2]], ["w_q"], name="wq", axis=0
    )
    e.model.graph.node.insert(0, quantize)
    dq.input[0] = "w_q"


def per_tensor_weight(e):
    dq = e.nodes["fc.weight_DequantizeLinear"]
    e.add("one", np.float32(0.01))
    e.add("none", np.int8(0))
    dq.input[1], dq.input[2] = "one", "none"


def float_weight(e):
    e.add("w_float", np.zeros((8, 8, 3, 3), np.float32))
    e.nodes["block1.conv1"].input[1] = "w_float"


def uint8_weight(e):
    e.set("block1.conv1.weight_quantized", lambda w: w.view(np.uint8))
    e.set("block1.conv1.weight_zero_point", lambda z: z.view(np.uint8))


def float_bias(e):
    e.add("b_float", np.zeros(8, np.float32))
    e.nodes["block1.conv1"].input[2] = "b_float"


def float_residual(e):
    e.bypass(e.nodes["block1.add"], 1)


def both_residuals(e):
    add = e.nodes["block1.add"]
    main = "block1.conv2_out"
    e.add("m_scale", np.float32(0.1))
    e.add("m_zero", np.int8(0))
    at = list(e.model.graph.node).index(add)
    pair = [
        helper.make_node("QuantizeLinear", [main, "m_scale", "m_zero"], ["mq"], name="mq"),
        helper.make_node("DequantizeLinear", ["mq", "m_scale", "m_zero"], ["mdq"], name="mdq"),
    ]
    for node in reversed(pair):
        e.model.graph.node.insert(at, node)
    index = list(add.input).index(main)
    e.model.graph.node[at + 2].input[index] = "mdq"


def before_relu(e):
    relu = e.nodes["block1.relu1"]
    at = list(e.model.graph.node).index(relu)
    e.add("r_scale", np.float32(0.1))
    e.add("r_zero", np.uint8(9))
    source = relu.input[0]
    pair = [
        helper.make_node("QuantizeLinear", [source, "r_scale", "r_zero"], ["rq"], name="rq"),
        helper.make_node("DequantizeLinear", ["rq", "r_scale", "r_zero"], ["rdq"], name="rdq"),
    ]
    for node in reversed(pair):
        e.model.graph.node.insert(at, node)
    e.model.graph.node[at + 2].input[0] = "rdq"


def read_in_float(e):
    e.bypass(e.nodes["block1.conv2"], 0)


def other_pool_scale(e):
    e.add("p_scale", np.float32(0.5))
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        e.nodes[f"stem.pool_out_{kind}"].input[1] = "p_scale"


def overfull_pair(e):
    def plant(w):
        w = w.copy()
        w[2, 4:6, 1, 1] = 127
        return w

    e.set("block2.conv2.weight_quantized", plant)


def lowest_weight(e):
    def plant(w):
        w = w.copy()
        w[0, 0, 0, 0] = -128
        return w

    e.set("block1.conv1.weight_quantized", plant)


def per_channel_activation(e):
    e.set("block1.relu1_out_scale", lambda s: np.full(8, s))
    e.set("block1.relu1_out_zero_point", lambda z: np.full(8, z))


PLANTED = [
    (FUSING, "weight-axis", "block1.conv1", wrong_axis),
    (FUSING, "weight-dtype", "block1.conv1", fake_quantized_weight),
    (FUSING, "weight-dtype", "block1.conv1", uint8_weight),
    (FUSING, "weight-granularity", "fc", per_tensor_weight),
    (FUSING, "float-input", "block1.conv1", float_weight),
    (FUSING, "float-input", "block1.conv2", read_in_float),
    (FUSING, "output", "block1.conv1", read_in_float),
    (FUSING, "bias", "block1.conv1", float_bias),
    (FUSING, "bias", "block1.conv1", lambda e: e.set("block1.conv1.bias_scale", lambda s: s * 2)),
    (FUSING, "residual", "block1.add", float_residual),
    (FUSING, "relu", "block1.relu1", before_relu),
    (FUSING, "shared-scale", "stem.pool", other_pool_scale),
    (FUSING, "activation-scale", "block1.relu1_out_QuantizeLinear", per_channel_activation),
    (FUSING, "scale", "input_QuantizeLinear", lambda e: e.set("input_scale", lambda s: s * 0)),
    (FUSING, "scale", "input_QuantizeLinear", lambda e: e.set("input_scale", lambda s: s * 1e-20)),
    (FUSING, "scale", "input_QuantizeLinear", lambda e: e.set("input_scale", lambda s: s * np.nan)),
    (
        FUSING,
        "zero-point",
        "fc.weight_DequantizeLinear",
        lambda e: e.set("fc.weight_zero_point", lambda z: z + np.int8(1)),
    ),
    (SYMMETRIC, "residual", "block1.add", both_residuals),
    (
        SYMMETRIC,
        "zero-point",
        "block1.relu1_out_QuantizeLinear",
        lambda e: e.set("block1.relu1_out_zero_point", lambda z: z + np.int8(3)),
    ),
    (
        SYMMETRIC,
        "activation-dtype",
        "block1.relu1_out_QuantizeLinear",
        lambda e: e.set("block1.relu1_out_zero_point", lambda z: z.astype(np.uint8)),
    ),
    (SAFE_RULES, "saturation", "block2.conv2", overfull_pair),
    (FUSING, "lowest-weight", "block1.conv1", lowest_weight),
]


@pytest.mark.parametrize(("rules", "rule", "node", "plant"), PLANTED)
def test_every_planted_violation_is_found(files, tmp_path, rules, rule, node, plant):
    edit = Edit(files[rules.name])
    plant(edit)
    findings = lint(edit.save(tmp_path / "bad.onnx"), rules)
    assert (rule, node) in {(f.rule, f.node) for f in findings}
    assert all(f.message.endswith(".") for f in findings)


@pytest.mark.parametrize(("wrong_here", "severity"), [(False, "risk"), (True, "wrong")])
def test_a_weight_of_the_lowest_value_is_told_on_every_cpu(files, tmp_path, wrong_here, severity):
    edit = Edit(files[FUSING.name])
    lowest_weight(edit)
    rules = replace(FUSING, wrong_lowest_weight=wrong_here)
    (found,) = lint(edit.save(tmp_path / "lowest.onnx"), rules)
    assert (found.rule, found.node, found.severity) == ("lowest-weight", "block1.conv1", severity)
    assert found.message.startswith("1 of ")


def test_a_file_for_one_rule_set_is_explained_under_another(files):
    rules_found = {f.rule for f in lint(files[FUSING.name], SYMMETRIC)}
    assert {"activation-dtype", "zero-point", "residual", "bias"} <= rules_found
    rules_found = {f.rule for f in lint(files[SYMMETRIC.name], FUSING)}
    assert {"activation-dtype", "residual", "bias", "float-input"} <= rules_found


def test_the_float_model_is_all_findings(resnet):
    nodes = {f.node for f in lint(resnet, FUSING) if f.rule == "float-input"}
    convs = {n.name for n in ir.load(resnet).graph if n.op_type in ("Conv", "Gemm")}
    assert convs <= nodes


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "x.onnx").write_text("nothing")
    with pytest.raises(ModelError, match=r"x\.onnx"):
        lint(tmp_path / "x.onnx", FUSING)
