"""Foreign files that hold other numbers than float32: one FP32 network comes out."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgeres.errors import GateError, ModelError
from edgeres.exporting import foreign, real_parity

RANDOM = np.random.default_rng(11)
BODY = "r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm<transB=1>(f, fw, fb)"
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "fb": RANDOM.standard_normal(4).astype(np.float32),
}
CODES = {"float16": 10, "bfloat16": 16, "double": 11}


def stored_as(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The same model with its weights in another float type."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            made = onnx.helper.make_tensor(tensor.name, CODES[kind], values.shape, values.ravel())
            tensor.CopyFrom(made)
    return model


def types(model: onnx.ModelProto) -> set[int]:
    values = [*model.graph.input, *model.graph.output]
    weights = {t.data_type for t in model.graph.initializer if t.data_type != TensorProto.INT64}
    return {v.type.tensor_type.elem_type for v in values} | weights


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_other_floats_become_float32(build_graph, bring, kind: str, outside: bool) -> None:
    if outside:
        inner = "c = Conv(x, w) " + BODY
        image, scores = f"{kind}[N,3,6,6] x", f"{kind}[N,4] y"
    else:
        inner = f"h = Cast<to={CODES[kind]}>(x) c = Conv(h, w) " + BODY.replace("y =", "z =")
        inner += " y = Cast<to=1>(z)"
        image, scores = "float[N,3,6,6] x", "float[N,4] y"
    source = stored_as(build_graph(inner, WEIGHTS, image=image, scores=scores), kind)
    told, model = bring(source)
    assert types(model) == {TensorProto.FLOAT}
    assert [n.op_type for n in model.graph.node] == [
        "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm",
    ]  # fmt: skip
    assert any(note.startswith(f"{kind} became float32; ") for note in told["notes"])
    assert not told["whole_numbers"]


def test_what_half_precision_does_not_explain_is_found(build_graph, bring, monkeypatch) -> None:
    source = stored_as(
        build_graph("c = Conv(x, w) " + BODY, WEIGHTS, image="float16[N,3,6,6] x",
                    scores="float16[N,4] y"), "float16"
    )  # fmt: skip
    in_float32 = foreign.in_float32

    def wrong(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        plain, found = in_float32(model)
        fb = next(t for t in plain.graph.initializer if t.name == "fb")
        fb.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(fb) * 2, "fb"))
        return plain, found

    monkeypatch.setattr(foreign, "in_float32", wrong)
    with pytest.raises(GateError):
        bring(source)


NORMALIZED = "t = Transpose<perm=[0,3,1,2]>(x) h = Cast<to=1>(t) d = Div(h, top) c = Conv(d, w) "


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64"])
def test_pixels_as_whole_numbers(build_graph, bring, tmp_path, kind: str) -> None:
    source = build_graph(
        NORMALIZED + BODY, WEIGHTS | {"top": np.array(255, np.float32)},
        image=f"{kind}[N,6,7,3] x",
    )  # fmt: skip
    told, model = bring(source)
    assert told["whole_numbers"]
    assert told["layout"] == "nhwc"
    assert types(model) == {TensorProto.FLOAT}
    pixels = RANDOM.integers(0, 256, (3, 6, 7, 3))
    right, found = (
        onnxruntime.InferenceSession(
            each.SerializeToString(), providers=["CPUExecutionProvider"]
        ).run(None, {"x": pixels.astype(dtype)})[0]
        for each, dtype in ((source, kind), (model, "float32"))
    )
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
    files = tmp_path / "foreign.onnx", tmp_path / "normal.onnx"
    images = pixels.astype(np.float32)
    assert real_parity.compare_files(*files, images)["max_rel_error"] < 1e-4
    with pytest.raises(ModelError, match="takes whole numbers") as caught:
        real_parity.compare_files(*files, images / 255)
    assert "--scale 1 --mean 0 --std 1" in caught.value.hint


def test_arithmetic_on_whole_numbers_is_not_guessed(build_graph, bring) -> None:
    # Integer division cuts; the same graph in float does not, and must not come out.
    body = "q = Div(x, seven) h = Cast<to=1>(q) c = Conv(h, w) " + BODY
    source = build_graph(body, WEIGHTS | {"seven": np.array(7, np.int32)}, image="int32[N,3,6,6] x")
    with pytest.raises((ModelError, GateError)):
        bring(source)
