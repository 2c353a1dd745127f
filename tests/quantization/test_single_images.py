"""A network that takes one image at a time, with a tensor inside that has no place for a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper, parser

from edgeres.backends.base import QdqRules
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.sensitivity import sensitivity
from edgeres.quantization.simulate import simulated_logits
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.sqnr import sqnr_db

RANDOM = np.random.default_rng(23)
BODY = """
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) r = Relu(c) v = Reshape(r, rows)
    t = Transpose<perm=[1,0]>(v) g = MatMul(v, t) s = Softmax<axis=1>(g) m = MatMul(s, v)
    i = Reshape(m, image) d = Conv<kernel_shape=[1,1]>(i, k, b) a = Add(d, r)
    p = GlobalAveragePool(a) f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
    "k": RANDOM.standard_normal((8, 8, 1, 1)).astype(np.float32),
    "b": np.zeros(8, np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "fb": np.zeros(4, np.float32),
    "rows": np.array([8, -1]),
    "image": np.array([1, 8, 24, 24]),
}
RULES = QdqRules(
    name="plain",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=frozenset({"Conv", "Gemm", "Add", "GlobalAveragePool"}),
    bias="int32",
    residual="both",
    quantize_outputs=True,
)


def network(path: Path) -> Path:
    text = f"net (float[1,3,24,24] x) => (float[1,4] y) {{ {BODY} }}"
    graph = parser.parse_graph(text)
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type.lower()}{number}"
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in WEIGHTS.items())
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_it_is_calibrated_image_by_image_and_quantized(tmp_path: Path) -> None:
    source = network(tmp_path / "one.onnx")
    images = RANDOM.standard_normal((6, 3, 24, 24)).astype(np.float32)
    table = calibrate(source, [images[:4], images[4:]])
    assert table.samples == 6
    model = onnx.load(source)
    names = [output for node in model.graph.node for output in node.output if output != "y"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    seen = [dict(zip(["y", *names], session.run(None, {"x": one[None]}), strict=True))
            for one in images]  # fmt: skip
    assert {"v", "g", "m"} <= set(table.tensors)
    for name in set(table.tensors) - {"x"}:
        stats, values = table.tensors[name], [each[name] for each in seen]
        assert stats.high == np.float32(max(v.max() for v in values)), name
        assert stats.shape == (values[0].shape if len(values[0]) != 1 else values[0].shape[1:])
    out = tmp_path / "qdq.onnx"
    quantize(source, table, RULES, out)
    quantized = onnxruntime.InferenceSession(str(out))
    for one, right in zip(images, seen, strict=True):
        (found,) = quantized.run(None, {"x": one[None]})
        noise = np.square(found - right["y"]).sum() / np.square(right["y"]).sum()
        assert noise < 10**-2.5


def test_all_that_runs_it_otherwise_does_so_image_by_image(tmp_path: Path) -> None:
    source = network(tmp_path / "one.onnx")
    images = RANDOM.standard_normal((6, 3, 24, 24)).astype(np.float32)
    table = calibrate(source, [images])
    for name, settings in (
        ("learned", QuantizeSettings(rounding="learned")),
        ("empirical", QuantizeSettings(bias_correction="empirical")),
    ):
        quantize(source, table, RULES, tmp_path / f"{name}.onnx", settings, images=images)
        logits = simulated_logits(tmp_path / f"{name}.onnx", [images])
        assert sqnr_db(simulated_logits(source, [images]), logits) > 20
    assert len(sensitivity(source, table, RULES, images).nodes) == 5
