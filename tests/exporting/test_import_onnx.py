"""Foreign ONNX files: what is brought into the normal form, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.errors import GateError, ModelError, StageError, UsageError
from edgeres.exporting import foreign
from edgeres.exporting.import_onnx import import_onnx

RANDOM = np.random.default_rng(5)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "fb": RANDOM.standard_normal(4).astype(np.float32),
    "to": np.array([1, -1]),
}
BODY = "c = Conv(x, w) r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) "
NETWORK = BODY + "y = Gemm<transB=1>(f, fw, fb)"


def test_whole_import_through_the_child(build_graph, tmp_path: Path) -> None:
    source, out = tmp_path / "foreign.onnx", tmp_path / "out" / "normal.onnx"
    source.write_bytes(build_graph(NETWORK, WEIGHTS, opset=11).SerializeToString())
    images = np.ones((4, 3, 6, 6), np.float32)
    result = import_onnx(source, out, images=images)
    assert result.path == out
    assert [p.name for p in out.parent.iterdir()] == ["normal.onnx"]
    assert (result.source_opset, result.opset) == (11, 20)
    assert (result.input_name, result.output_name, result.logits_name) == ("x", "y", "y")
    assert (result.sample_shape, result.num_classes, result.ends_in) == ((3, 6, 6), 4, "logits")
    assert result.dynamic_batch
    assert result.in_channels == 3
    assert result.notes == ("opset 11 upgraded to 20",)
    assert result.parity.samples == 10 + 3
    assert onnx.load(out).opset_import[0].version == 20


def test_terabyte_at_run_time_hits_the_limit_in_the_child(tmp_path: Path, build_graph) -> None:
    model = build_graph(
        "z = ConstantOfShape(s) m = ReduceMean(z) a = Add(x, m) f = Flatten(a) y = Identity(f)",
        {"s": np.array([1 << 30, 256])},
        scores="float[N,108] y",
    )
    source, out = tmp_path / "bomb.onnx", tmp_path / "normal.onnx"
    source.write_bytes(model.SerializeToString())
    assert len(source.read_bytes()) < 400
    with pytest.raises(StageError, match="takes 1024 GiB for one image, limit 1 GiB"):
        import_onnx(source, out, memory_bytes=4 << 30)
    assert [p.name for p in tmp_path.iterdir()] == ["bomb.onnx"]


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 20, 21])
def test_opsets(build_graph, bring, opset: int) -> None:
    told, model = bring(build_graph(NETWORK, WEIGHTS, opset=opset))
    assert told["source_opset"] == opset
    assert model.opset_import[0].version == told["opset"] == max(opset, 20)


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch_is_freed(build_graph, bring, batch: int) -> None:
    body = (
        "c = Conv(x, w) p = GlobalAveragePool(c) f = Reshape(p, to) y = Gemm<transB=1>(f, fw, fb)"
    )
    told, model = bring(
        build_graph(
            body,
            WEIGHTS | {"to": np.array([batch, -1])},
            image=f"float[{batch},3,6,6] x",
            scores=f"float[{batch},4] y",
        )
    )
    assert told["dynamic_batch"]
    assert told["parity"]["batch_sizes"] == [1, 2, 7]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_batch_that_cannot_be_freed_stays_and_is_told(build_graph, bring) -> None:
    # Scores of all images are averaged: for a batch of one that changes nothing.
    body = NETWORK.replace("y =", "s =") + " m = ReduceMean<keepdims=1>(s, rows) y = Add(s, m)"
    told, model = bring(
        build_graph(
            body,
            WEIGHTS | {"rows": np.array([0])},
            image="float[1,3,6,6] x",
            scores="float[1,4] y",
        )
    )
    assert not told["dynamic_batch"]
    assert "the batch stays 1" in told["notes"][0]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1


def test_softmax_stays_and_logits_are_named(build_graph, bring) -> None:
    body = NETWORK.replace("y =", "logits =") + " y = Softmax(logits)"
    told, model = bring(build_graph(body, WEIGHTS, opset=11))
    assert told["ends_in"] == "softmax"
    assert told["output_name"] == "y"
    gemm, softmax = list(model.graph.node)[-2:]
    assert (gemm.op_type, softmax.op_type) == ("Gemm", "Softmax")
    assert told["logits_name"] == gemm.output[0] == softmax.input[0]
    assert [o.name for o in model.graph.output] == ["y"]


def test_wrong_logits_behind_a_saturated_softmax_are_found(build_graph, bring, monkeypatch) -> None:
    body = NETWORK.replace("y =", "logits =") + " y = Softmax(logits)"
    saturated = WEIGHTS | {"fb": np.array([1e3, 0, 0, 0], np.float32)}
    normal_form = foreign.normal_form

    def wrong(model: Any, *, dynamic_batch: bool) -> None:
        normal_form(model, dynamic_batch=dynamic_batch)
        bias = model.graph.initializers["gemm.bias"]
        bias.const_value = foreign.ir.tensor(bias.const_value.numpy() * 1.1, name=bias.name)

    bring(build_graph(body, saturated))
    monkeypatch.setattr(foreign, "normal_form", wrong)
    with pytest.raises(GateError, match=r"output 'gemm\.out'"):
        bring(build_graph(body, saturated))


def test_channel_last_network_keeps_its_input(build_graph, bring) -> None:
    body = """t = Transpose<perm=[0,3,1,2]>(x) c = Conv(t, w) r = Relu(c)
        u = Transpose<perm=[0,2,3,1]>(r) f = ReduceMean<keepdims=0>(u, axes)
        m = MatMul(f, kernel) y = Add(m, fb)"""
    weights = {
        "w": WEIGHTS["w"],
        "fb": WEIGHTS["fb"],
        "kernel": WEIGHTS["fw"].T.copy(),
        "axes": np.array([1, 2]),
    }
    source = build_graph(body, weights, image="float[N,6,7,3] x")
    told, model = bring(source, layout="nhwc")
    assert told["sample_shape"] == [6, 7, 3]
    found = [n.op_type for n in model.graph.node]
    assert found == ["Transpose", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
    with pytest.raises(ModelError, match="looks like nhwc") as caught:
        bring(source, layout="nchw")
    assert "--layout nhwc" in caught.value.hint


def test_scores_with_a_spatial_tail_are_flattened(build_graph, bring) -> None:
    kernel = WEIGHTS["fw"].reshape(4, 8, 1, 1)
    for body, last in (
        ("c = Conv(x, w) d = Conv(c, k) y = GlobalAveragePool(d)", "Flatten"),
        ("c = Conv(x, w) p = GlobalAveragePool(c) y = Conv(p, k)", "Gemm"),  # a head of one pixel
    ):
        told, model = bring(
            build_graph(body, {"w": WEIGHTS["w"], "k": kernel}, scores="float[N,4,1,1] y")
        )
        assert told["notes"] == ["scores (N, 4, 1, 1) became (N, 4)"]
        assert model.graph.node[-1].op_type == last
        assert [o.name for o in model.graph.output] == ["y"]


def test_open_image_size_must_be_given(build_graph, bring) -> None:
    source = build_graph(NETWORK, WEIGHTS, image="float[N,3,H,W] x")
    with pytest.raises(ModelError, match="Expected an image of known size") as caught:
        bring(source)
    assert "--input-size" in caught.value.hint
    with pytest.raises(ModelError, match="for a sample of shape"):
        bring(source, sample_shape=[1, 8, 8])
    told, _ = bring(source, sample_shape=[3, 8, 9])
    assert told["sample_shape"] == [3, 8, 9]
    told, _ = bring(source, open_size=[7, 8])
    assert told["sample_shape"] == [3, 7, 8]


def test_one_of_several_outputs_is_kept(build_graph, bring) -> None:
    source = build_graph(NETWORK, WEIGHTS)
    source.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 8]))
    with pytest.raises(ModelError, match="Expected one output, got 2: y, f"):
        bring(source)
    with pytest.raises(ModelError, match="no output 'z'; there are y, f"):
        bring(source, outputs=["z"])
    told, model = bring(source, outputs=["y"])
    assert [o.name for o in model.graph.output] == [told["output_name"]] == ["y"]


def test_all_outputs_stay_where_no_classifier_is_asked_for(build_graph, bring) -> None:
    source = build_graph(NETWORK, WEIGHTS)
    source.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 8]))
    told, model = bring(source, classes=False)
    assert [o.name for o in model.graph.output] == ["y", "f"]
    assert told["num_classes"] == 0
    _, model = bring(source, classes=False, outputs=["f", "y"])
    assert [o.name for o in model.graph.output] == ["f", "y"]
    with pytest.raises(ModelError, match="Expected one output, --output-name names 2: f, y"):
        bring(source, outputs=["f", "y"])


def test_local_functions_are_written_out(build_graph, bring) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[N,3,6,6] x) => (float[N,4] y) {
            c = Conv(x, w) r = local.Act(c) p = GlobalAveragePool(r) f = Flatten(p)
            y = Gemm<transB=1>(f, fw, fb) }
        <domain: "local", opset_import: ["" : 17]> Act (a) => (b) { b = Relu(a) }"""
    )
    model.graph.initializer.extend(build_graph(NETWORK, WEIGHTS).graph.initializer)
    _, normal = bring(model)
    assert [n.op_type for n in normal.graph.node][:2] == ["Conv", "Relu"]


@pytest.mark.parametrize(
    ("body", "scores", "message"),
    [
        ("y = com.acme.Magic(x)", "float[N,4] y", "got com.acme.Magic at 'y'"),
        ("q, s, z = DynamicQuantizeLinear(x) y = Flatten(x)", "float[N,4] y", "quantized already"),
        ("y = Relu(x)", "float[N,3,6,6] y", r"Expected class scores \(N, K\) float32 .* 'y'"),
        ("f = Flatten(x) y = ArgMax<axis=1>(f)", "int64[N,1] y", "Expected class .* INT64"),
        ("y = Conv(x, nothing)", "float[N,4] y", "The file is no valid ONNX model"),
        ("a = Conv(x, fw) y = Flatten(a)", "float[N,4] y", "shapes contradict each other"),
    ],
)
def test_what_is_no_float_classifier_is_refused(build_graph, bring, body, scores, message) -> None:
    model = build_graph(body, WEIGHTS, scores=scores)
    if "com.acme" in body:
        model.opset_import.append(helper.make_opsetid("com.acme", 1))
    with pytest.raises(ModelError, match=message):
        bring(model)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("float[N,3,6,6] x, float[N,3] other", "Expected one input, got 2"),
        ("float[N,1,3,6,6] x", "Expected an input of 2 to 4 dimensions"),
        ("float[0,3,6,6] x", "Expected a batch of 1 or more, or an open one"),
        ("int8[N,3,6,6] x", "Expected an input of 2 to 4 dimensions"),
        ("float[N,M,T] x", "Expected features of known size"),
    ],
)
def test_wrong_inputs_are_listed(build_graph, bring, image: str, message: str) -> None:
    model = build_graph("f = Flatten(x) y = Cast<to=1>(f)", image=image, scores="float[N,108] y")
    with pytest.raises(ModelError, match=message):
        bring(model)


def test_control_flow_is_refused(build_graph, bring) -> None:
    model = build_graph(
        """s = ReduceMax<keepdims=0>(x)
        z = Sub(s, s)
        t = Less(s, z)
        y = If<then_branch=a () => (float[N,3,6,6] p) { p = Identity(x) },
               else_branch=b () => (float[N,3,6,6] q) { q = Relu(x) }>(t)"""
    )
    with pytest.raises(ModelError, match="Expected a network without control flow, got If at 'y'"):
        bring(model)


def test_deep_nesting_is_refused_not_followed(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(20_000):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
        graph = field(1, field(5, field(6, graph)))
    source = tmp_path / "deep.onnx"
    source.write_bytes(field(7, graph))  # ModelProto.graph
    with pytest.raises(ModelError, match="Expected an ONNX model at"):
        import_onnx(source, tmp_path / "normal.onnx")


def test_weights_that_are_not_numbers_are_named(build_graph, bring) -> None:
    broken = WEIGHTS | {"fb": np.array([0, np.nan, 0, 0], np.float32)}
    with pytest.raises(ModelError, match="Weights 'fb' hold 1 values that are NaN"):
        bring(build_graph(NETWORK, broken))


def test_weights_that_nothing_uses_may_be_no_numbers(build_graph, bring) -> None:
    nothing = np.full((2, 3), np.nan, np.float32)
    told, model = bring(build_graph(NETWORK, WEIGHTS | {"left": nothing}))
    assert any("NaN or infinite values and are left out: left" in note for note in told["notes"])
    assert "left" not in {weight.name for weight in model.graph.initializer}
    dead = "dead = Conv(x, left4) " + NETWORK
    told, _ = bring(
        build_graph(dead, WEIGHTS | {"left4": np.full((8, 3, 3, 3), np.nan, np.float32)})
    )
    assert any("left out: left4" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("node", "named"),
    [
        ("n = RandomNormalLike(fb)", "RandomNormalLike at 'n'"),
        ("n = RandomUniformLike(fb)", "RandomUniformLike at 'n'"),
        ("n = RandomNormal<shape=[4]>()", "RandomNormal at 'n'"),
        ("n = RandomUniform<shape=[4]>()", "RandomUniform at 'n'"),
        ("n = Bernoulli(half)", "Bernoulli at 'n'"),
        ("i = Multinomial<sample_size=4>(odds) n = Cast<to=1>(i)", "Multinomial at 'i'"),
        ("n = Dropout(fb, rate, on)", "Dropout 'n' is in training mode"),
    ],
)
def test_what_draws_numbers_is_refused(build_graph, bring, node: str, named: str) -> None:
    more = {
        "half": np.full(4, 0.5, np.float32),
        "odds": np.zeros((1, 3), np.float32),
        "rate": np.array(0.5, np.float32),
        "on": np.array(True),
    }
    body = f"{node} {NETWORK.replace('y =', 's =')} y = Add(s, n)"
    with pytest.raises(ModelError, match=named):
        bring(build_graph(body, WEIGHTS | more))


POOLED = "c = Conv(x, w) p = AveragePool<kernel_shape=[4,4], {}>(c) "
BEHIND = "m = ReduceMean<keepdims=1>(p, hw) f = Flatten(m) y = Gemm<transB=1>(f, fw, fb)"


@pytest.mark.parametrize(
    ("attributes", "whole"),
    [
        ("auto_pad='VALID'", True),
        ("strides=[2,2]", True),
        ("strides=[3,3], ceil_mode=1", True),
        ("auto_pad='SAME_LOWER', strides=[4,4]", True),
        ("auto_pad='SAME_UPPER'", False),
        ("auto_pad='SAME_LOWER'", False),
        ("auto_pad='SAME_UPPER', strides=[2,2]", False),
        ("pads=[0,0,1,1], strides=[4,4]", False),
        ("pads=[1,1,1,1], count_include_pad=1", False),
    ],
)
def test_only_a_window_over_the_bare_image_is_a_global_pool(
    build_graph, bring, attributes: str, whole: bool
) -> None:
    body = POOLED.format(attributes.replace("'", '"')) + BEHIND
    weights = WEIGHTS | {"hw": np.array([2, 3])}
    told, model = bring(build_graph(body, weights))
    assert told["notes"] == []  # a wrong rewriting would cost the free batch
    kinds = [node.op_type for node in model.graph.node]
    assert ("AveragePool" not in kinds) == whole


def test_dilated_window_is_no_global_pool(build_graph, bring) -> None:
    """Two of four pixels along each side: as far as the image, but not all of it."""
    body = (
        "c = Conv(x, w) p = AveragePool<kernel_shape=[2,2], dilations=[3,3]>(c) f = Flatten(p) "
        "y = Gemm<transB=1>(f, fw, fb)"
    )
    _, model = bring(build_graph(body, WEIGHTS))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Conv", "Flatten", "Gemm"]


def test_ceil_mode_does_not_outlive_the_padding_that_made_it_void(build_graph, bring) -> None:
    body = (
        "c = Conv(x, w) p = AveragePool<kernel_shape=[1,1], strides=[3,3], ceil_mode=1, "
        'auto_pad="SAME_UPPER">(c) ' + BEHIND
    )
    _, model = bring(build_graph(body, WEIGHTS | {"hw": np.array([2, 3])}))
    assert "ceil_mode" not in {a.name for n in model.graph.node for a in n.attribute}


@pytest.mark.parametrize("changes", [{"opset": 17}, {"layout": "chwn"}])
def test_impossible_requests_are_usage_errors(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        import_onnx(tmp_path / "m.onnx", tmp_path / "n.onnx", **changes)


@pytest.mark.parametrize(("opset", "version"), [(9, 3), (13, 7)])
def test_weights_that_are_inputs_too_are_none(build_graph, bring, opset: int, version: int) -> None:
    model = build_graph(NETWORK, WEIGHTS, opset=opset)
    image = [*model.graph.input]
    del model.graph.input[:]
    for name, array in WEIGHTS.items():
        kind = TensorProto.INT64 if name == "to" else TensorProto.FLOAT
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    model.graph.input.extend(image)
    model.ir_version = version
    told, normal = bring(model)
    assert told["input_name"] == "x"
    assert [value.name for value in normal.graph.input] == ["x"]


def test_group_norm_is_written_out(build_graph, bring) -> None:
    body = """c = Conv(x, w) n = GroupNormalization<num_groups=4, epsilon=0.01>(c, gamma, beta)
        m = GroupNormalization<num_groups=2>(n, beta, gamma) r = Relu(m)
        p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, fw, fb)"""
    norms = {name: RANDOM.standard_normal(8).astype(np.float32) for name in ("gamma", "beta")}
    told, normal = bring(build_graph(body, WEIGHTS | norms, opset=21))
    found = [node.op_type for node in normal.graph.node]
    assert told["dynamic_batch"]
    assert found.count("InstanceNormalization") == 2
    assert "GroupNormalization" not in found
