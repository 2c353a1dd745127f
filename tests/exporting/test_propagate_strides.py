"""Strides move up to where they save work, and the network stays the same, bit for bit.

Weights and images are small whole numbers, so that every product and sum is exact in float32 and
the order of summing cannot hide a wrong pixel; real-valued networks run as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.exporting.passes import normal_form, run_pass, to_bytes
from edgeres.exporting.propagate_strides import PropagateStrides
from edgeres.graph.shapes import BATCH, set_batch
from edgeres.graph.summary import node_macs

HEAD = "g = GlobalAveragePool({0}) f = Flatten(g) y = Gemm<transB=1>(f, fw, fb)"
EVERY_SECOND = "Conv<strides=[2,2], kernel_shape=[1,1]>"
SAME = "Conv<kernel_shape=[3,3], pads=[1,1,1,1]>"
# The end of a stage in the way of Caffe, and the start of the next one.
STAGES = f"""
    a = Conv(x, k_in) r = Relu(a)
    b1 = Conv(r, k1) b2 = Relu(b1) b3 = {SAME}(b2, k3) b4 = Relu(b3) b5 = Conv(b4, k1)
    s = Add(b5, r) t = Relu(s)
    c1 = {EVERY_SECOND}(t, k1) c2 = Relu(c1) c3 = Conv(c2, k1)
    p = {EVERY_SECOND}(t, k1) u = Add(c3, p) v = Relu(u) {HEAD.format("v")}"""


def whole(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def weights(channels: int = 4) -> dict[str, np.ndarray]:
    return {
        "k_in": whole(channels, 3, 1, 1),
        "k1": whole(channels, channels, 1, 1, seed=2),
        "k3": whole(channels, channels, 3, 3, seed=3),
        "k5": whole(channels, channels, 5, 5, seed=4),
        "depth": whole(channels, 1, 3, 3, seed=5),
        "scale": whole(channels, 1, 1, seed=6),
        "zero": np.float32(0),
        "six": np.float32(6),
        "fw": whole(4, channels, seed=7),
        "fb": whole(4, seed=8),
    }


def propagated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after this pass alone."""
    graph = ir.from_proto(model)
    set_batch(graph, 1)
    run_pass(PropagateStrides(), graph)
    set_batch(graph, BATCH)
    return onnx.ModelProto.FromString(to_bytes(graph))


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    named = onnx.ModelProto.FromString(model.SerializeToString())
    for number, node in enumerate(named.graph.node):
        node.name = str(number)  # two added poolings share one name until a later pass names all
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        named.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, {"x": image})]


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Both models give the same bits, for whole and for real numbers, for batches of 1 and 3."""
    dims = [d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim][1:]
    real = np.random.default_rng(0).standard_normal((3, *dims), dtype=np.float32)
    for image in (whole(1, *dims), whole(3, *dims), real):
        for one, other in zip(run(before, image), run(after, image), strict=True):
            np.testing.assert_array_equal(one, other)


def strides(model: onnx.ModelProto) -> dict[str, list[int]]:
    """By output, of all windows that are not of stride 1."""
    found = {}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "strides" and set(attribute.ints) != {1}:
                found[f"{node.op_type} {node.output[0]}"] = list(attribute.ints)
    return found


def macs(model: onnx.ModelProto, path: Path) -> int:
    onnx.save(model, path)
    return sum(node_macs(path).values())


@pytest.mark.parametrize("size", [6, 7, 15])
def test_the_last_block_of_a_stage_is_computed_where_it_is_read(
    build_graph, tmp_path, size
) -> None:
    before = build_graph(STAGES, weights(), image=f"float[N,3,{size},{size}] x")
    after = propagated(before)
    assert_same(before, after)
    (pool,) = (node for node in after.graph.node if node.op_type == "MaxPool")
    assert list(pool.input) == ["r"]
    assert strides(after) == {"Conv b3": [2, 2], f"MaxPool {pool.output[0]}": [2, 2]}
    pixels, few = size**2, ((size + 1) // 2) ** 2
    saved = (9 * 16 + 16) * (pixels - few)  # the 3x3 and the 1x1 behind it; the first stays whole
    assert macs(before, tmp_path / "a.onnx") - macs(after, tmp_path / "b.onnx") == saved


def test_it_is_part_of_the_normal_form_and_names_stay(build_graph, normalize) -> None:
    source = build_graph(STAGES, weights(), image="float[N,3,7,7] x")
    for node in source.graph.node:
        node.name = f"stage/{node.output[0]}"
    result = normalize(source)
    names = {node.name for node in result.graph.node}
    assert names == {node.name for node in source.graph.node} | {"stage/s.maxpool"}
    assert normalize(result).SerializeToString() == result.SerializeToString()
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    fixed = ir.from_proto(source)
    normal_form(fixed, dynamic_batch=False)
    assert strides(onnx.ModelProto.FromString(to_bytes(fixed))) == {
        "Conv stage/b3.out": [2, 2],
        "MaxPool stage/s.maxpool.out": [2, 2],
    }


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"a = {SAME}(b, k3)", {"Conv a": [2, 2]}),
        ("a = Conv<strides=[2,2], pads=[2,1,2,3]>(b, k5)", {"Conv a": [4, 4]}),
        ("a = Conv<dilations=[2,2], pads=[2,2,2,2]>(b, k3)", {"Conv a": [2, 2]}),
        ("a = Conv<group=4, pads=[0,1,1,0]>(b, depth)", {"Conv a": [2, 2]}),
        ("a = Conv(b, k1)", {"Conv b": [2, 2]}),
        ("c = Relu(b) a = Clip(c, zero, six)", {"Conv b": [2, 2]}),
        ("c = LeakyRelu(b) a = PRelu(c, scale)", {"Conv b": [2, 2]}),
        ("c = Sigmoid(b) a = Mul(b, c)", {"Conv b": [2, 2]}),
        ("c = HardSigmoid(b) d = HardSwish(b) a = Sub(d, c)", {"Conv b": [2, 2]}),
        ("a = Mul(b, scale)", {"Conv b": [2, 2]}),
        ("c = Conv(b, k1) d = Add(b, b) a = Sum(b, c, d)", {"Conv b": [2, 2]}),
        (f"e = {SAME}(b, k3) c = Conv(e, k1) a = Add(c, e)", {"Conv e": [2, 2]}),
        ("a = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(b)", {"MaxPool a": [2, 2]}),
        ("a = AveragePool<kernel_shape=[3,2], pads=[1,0,1,0]>(b)", {"AveragePool a": [2, 2]}),
        ("c = BatchNormalization(b, one, m, m, one) a = Relu(c)", {"Conv b": [2, 2]}),
    ],
)
def test_what_can_take_a_stride_takes_it(build_graph, size, body, expected) -> None:
    extra = {"one": np.ones(4, np.float32), "m": whole(4, seed=9)}
    text = f"b = Conv(x, k_in) {body} z = {EVERY_SECOND}(a, k1) {HEAD.format('z')}"
    before = build_graph(text, weights() | extra, image=f"float[N,3,{size},{size}] x")
    after = propagated(before)
    assert strides(after) == expected
    assert_same(before, after)
    assert propagated(after).SerializeToString() == after.SerializeToString()


def test_a_pooling_of_one_pixel_goes_with_its_stride(build_graph) -> None:
    pool = "MaxPool<kernel_shape=[1,1], strides=[2,3]>"
    before = build_graph(
        f"b = Conv(x, k_in) a = Relu(b) z = {pool}(a) {HEAD.format('z')}",
        weights(),
        image="float[N,3,7,8] x",
    )
    after = propagated(before)
    assert strides(after) == {"Conv b": [2, 3]}
    assert "MaxPool" not in {node.op_type for node in after.graph.node}
    assert_same(before, after)


def test_an_operand_that_others_read_is_sampled_once(build_graph) -> None:
    text = f"""b = Conv(x, k_in) c = {SAME}(b, k3) d = Add(c, b) e = Mul(d, b)
        z = {EVERY_SECOND}(e, k1) o = Add(z, z) w = {SAME}(b, k3) q = GlobalAveragePool(w)
        v = Mul(o, q) {HEAD.format("v")}"""
    before = build_graph(text, weights(), image="float[N,3,7,7] x")
    after = propagated(before)
    (pool,) = (node for node in after.graph.node if node.op_type == "MaxPool")
    assert strides(after) == {"Conv c": [2, 2], f"MaxPool {pool.output[0]}": [2, 2]}
    assert_same(before, after)


@pytest.mark.parametrize(
    "body",
    [
        # A reader of stride 1, another stride, a padded or larger window, a mean.
        f"b = Conv(x, k_in) z = {EVERY_SECOND}(b, k1) c = Conv(b, k1) q = GlobalAveragePool(c)",
        f"b = Conv(x, k_in) z = {EVERY_SECOND}(b, k1) c = Conv<strides=[3,3]>(b, k1) "
        "q = GlobalAveragePool(c)",
        f"b = Conv(x, k_in) z = {EVERY_SECOND}(b, k1) c = Conv<strides=[2,2]>(b, k3) "
        "q = GlobalAveragePool(c)",
        f"b = Conv(x, k_in) z = {EVERY_SECOND}(b, k1) q = GlobalAveragePool(b)",
        "b = Conv(x, k_in) z = Conv<strides=[2,2], pads=[1,1,1,1]>(b, k1) q = GlobalAveragePool(z)",
        # Nothing above that could take the stride: only poolings would be added.
        f"s = Mul(x, third) r = Relu(s) z = {EVERY_SECOND}(r, k_in) q = GlobalAveragePool(z)",
        f"b = Conv(x, k_in) q = GlobalAveragePool(b) c = Conv(q, k1) e = Mul(b, c) "
        f"z = {EVERY_SECOND}(e, k1)",
        # An operand broadcast over the rows, a constant over the image, rounding up.
        f"b = Conv(x, k_in) e = Mul(b, row) z = {EVERY_SECOND}(e, k1) q = GlobalAveragePool(z)",
        f"b = Conv(x, k_in) e = Add(b, image) z = {EVERY_SECOND}(e, k1) q = GlobalAveragePool(z)",
        "b = Conv(x, k_in) c = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(b) "
        f"z = {EVERY_SECOND}(c, k1) q = GlobalAveragePool(z)",
        # One pixel: nothing to save.
        f"b = Conv<strides=[7,7]>(x, k_in) z = {EVERY_SECOND}(b, k1) q = GlobalAveragePool(z)",
    ],
)
def test_what_others_need_stays(build_graph, body) -> None:
    extra = {"third": np.full((1, 3, 1, 1), 3, np.float32), "row": whole(1, 4, 1, 7)}
    text = f"{body} v = Mul(z, q) {HEAD.format('v')}"
    model = build_graph(
        text, weights() | extra | {"image": whole(4, 7, 7)}, image="float[N,3,7,7] x"
    )
    assert propagated(model).SerializeToString() == untouched(model).SerializeToString()


def untouched(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    set_batch(graph, 1)
    set_batch(graph, BATCH)
    return onnx.ModelProto.FromString(to_bytes(graph))


def test_an_output_of_the_network_stays(build_graph) -> None:
    text = f"b = Conv(x, k_in) z = {EVERY_SECOND}(b, k1) {HEAD.format('z')}"
    model = build_graph(text, weights(), image="float[N,3,7,7] x")
    assert strides(propagated(model)) == {"Conv b": [2, 2]}
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["N", 4, 7, 7])
    )
    assert strides(propagated(model)) == {"Conv z": [2, 2]}


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_random_residual_networks_stay_the_same(data: st.DataObject) -> None:
    import onnx.parser
    from onnx import numpy_helper

    height, width = data.draw(st.integers(2, 15)), data.draw(st.integers(2, 15))
    text, at = ["t0 = Conv(x, k_in)"], 0
    for _ in range(data.draw(st.integers(1, 5))):
        text.append(_step(data, at))
        at += 1
    body = " ".join([*text, HEAD.format(f"t{at}")])
    graph = onnx.parser.parse_graph(
        f"g (float[N,3,{height},{width}] x) => (float[N,4] y) {{ {body} }}"
    )
    for name, array in weights().items():
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    before = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=8
    )
    after = propagated(before)
    for image in (whole(1, 3, height, width), whole(2, 3, height, width, seed=3)):
        for one, other in zip(run(before, image), run(after, image), strict=True):
            np.testing.assert_array_equal(one, other)
    assert propagated(after).SerializeToString() == after.SerializeToString()


def _step(data: st.DataObject, at: int) -> str:
    """One more step behind ``t{at}``: a window, or a residual block with its shortcut."""
    source, result = f"t{at}", f"t{at + 1}"
    stride = data.draw(st.integers(1, 3))
    steps = f"strides=[{stride},{data.draw(st.integers(1, 3))}]"
    window: Any = data.draw(
        st.sampled_from(
            [
                f"Conv<kernel_shape=[1,1], {steps}>({{0}}, k1)",
                f"Conv<kernel_shape=[3,3], pads=[1,1,1,1], {steps}>({{0}}, k3)",
                f"Conv<kernel_shape=[3,3], group=4, pads=[1,1,1,1], {steps}>({{0}}, depth)",
                f"MaxPool<kernel_shape=[1,1], {steps}>({{0}})",
                f"MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], {steps}>({{0}})",
            ]
        )
    )
    kind = data.draw(st.sampled_from(["plain", "identity", "projection"]))
    name = f"s{at}"
    if kind == "plain":
        return f"{name} = {window.format(source)} {result} = Clip({name}, zero, six)"
    if kind == "identity":
        return f"""{name}a = {SAME}({source}, k3) {name}b = Relu({name}a)
            {name}c = Conv({name}b, k1) {name}d = Add({name}c, {source})
            {result} = Relu({name}d)"""
    return f"""{name}a = {window.format(source)} {name}b = {SAME}({name}a, k3)
        {name}p = Conv<kernel_shape=[1,1], {steps}>({source}, k1)
        {name}d = Add({name}b, {name}p) {result} = Clip({name}d, zero, six)"""


def test_the_padding_of_one_pixel_that_got_a_stride_stands_in_a_pad(build_graph) -> None:
    """OpenVINO moves the stride of a 1x1 convolution before its padding."""
    text = """
        a = Conv<pads=[0, 2, 2, 1]>(x, w)
        b = AveragePool<kernel_shape=[1, 1], strides=[1, 2]>(a)
        c = GlobalAveragePool(b)
        y = Flatten<axis=1>(c)
    """
    before = build_graph(
        text, {"w": whole(3, 3, 1, 1)}, image="float[N,3,9,9] x", scores="float[N,3] y"
    )
    model = ir.from_proto(before)
    normal_form(model)
    (convolution,) = (node for node in model.graph if node.op_type == "Conv")
    assert list(convolution.attributes.get_ints("strides")) == [1, 2]
    assert not any(convolution.attributes.get_ints("pads"))
    assert any(node.op_type == "Pad" for node in model.graph)
