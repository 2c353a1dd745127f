"""Networks for any batch with tensors inside whose first dimension is not that of the images.

The heads of an attention are rows of their own, and a sequence may stand in front of the images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from edgeres.backends.base import QdqRules
from edgeres.errors import ModelError
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.simulate import simulated_logits
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.sqnr import sqnr_db

RANDOM = np.random.default_rng(29)
START = "c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w, b) r = Relu(c) "
ATTENTION = """
    g = MatMul(v, t) s = Softmax<axis=-1>(g) m = MatMul(s, v)
"""
END = """
    d = Conv<kernel_shape=[1,1]>(i, k, b) a = Add(d, r) p = GlobalAveragePool(a)
    f = Flatten<axis=1>(p) y = Gemm<transB=1>(f, fw, fb)
"""
KINDS = {
    "heads beside the images": f"v = Reshape(r, heads) t = Transpose<perm=[0,2,1]>(v) {ATTENTION}"
    "i = Reshape(m, image)",
    "images behind a sequence": "q = Reshape(r, rows) v = Transpose<perm=[2,0,1]>(q) "
    "h = MatMul(v, dense) l = Relu(h) o = Add(l, v) j = Transpose<perm=[1,2,0]>(o) "
    "i = Reshape(j, image)",
    "channels of a part of each image": "v = Reshape(r, parts) l = Conv<kernel_shape=[1,1]>"
    "(v, kp, bp) o = Relu(l) i = Reshape(o, image)",
}
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
    "k": RANDOM.standard_normal((8, 8, 1, 1)).astype(np.float32),
    "kp": RANDOM.standard_normal((4, 4, 1, 1)).astype(np.float32),
    "dense": RANDOM.standard_normal((8, 8)).astype(np.float32),
    "b": np.zeros(8, np.float32),
    "bp": np.array([0.5, -0.5, 0.25, 0.0], np.float32),
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "fb": np.zeros(4, np.float32),
    "heads": np.array([-1, 4, 576]),
    "rows": np.array([-1, 8, 576]),
    "parts": np.array([-1, 4, 24, 24]),
    "image": np.array([-1, 8, 24, 24]),
}
RULES = QdqRules(
    name="plain",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=frozenset({"Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool"}),
    bias="int32",
    residual="both",
    quantize_outputs=True,
)


def network(path: Path, kind: str) -> Path:
    graph = parser.parse_graph(
        f"net (float[N,3,24,24] x) => (float[N,4] y) {{ {START} {KINDS[kind]} {END} }}"
    )
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type.lower()}{number}"
    read = {name for node in graph.node for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in WEIGHTS.items() if name in read
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_calibrated_with_the_values_that_it_has(tmp_path: Path, kind: str) -> None:
    source = network(tmp_path / "net.onnx", kind)
    images = RANDOM.standard_normal((6, 3, 24, 24)).astype(np.float32)
    table = calibrate(source, [images[:4], images[4:]])
    model = onnx.load(source)
    names = [output for node in model.graph.node for output in node.output if output != "y"]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    seen = dict(zip(["y", *names], session.run(None, {"x": images}), strict=True))
    assert {"v", "i"} <= set(table.tensors)
    for name in set(table.tensors) - {"x"}:
        stats = table.tensors[name]
        assert (stats.low, stats.high) == (seen[name].min(), seen[name].max()), name
        assert np.prod(stats.shape) * len(images) == seen[name].size, name
    channels = table.tensors["v"].channel_mean
    if kind.startswith("channels"):
        wanted = seen["v"].mean(axis=(0, 2, 3))
        assert table.tensors["v"].shape[0] == len(channels)
        np.testing.assert_allclose(channels, wanted, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_all_ways_to_quantize_it_hold(tmp_path: Path, kind: str) -> None:
    source = network(tmp_path / "net.onnx", kind)
    images = RANDOM.standard_normal((70, 3, 24, 24)).astype(np.float32)
    table = calibrate(source, [images[:16]])
    for settings in (
        QuantizeSettings(),
        QuantizeSettings(rounding="learned"),
        QuantizeSettings(bias_correction="empirical"),
    ):
        out = tmp_path / "qdq.onnx"
        quantize(source, table, RULES, out, settings, images=images)
        logits = simulated_logits(out, [images])
        assert sqnr_db(simulated_logits(source, [images]), logits) > 28, settings


def test_what_mixes_images_is_refused(tmp_path: Path) -> None:
    source = network(tmp_path / "net.onnx", "heads beside the images")
    model = onnx.load(source)
    mixed = [
        onnx.helper.make_node("ReduceMax", ["r", "axis"], ["top"], "mixed"),
        onnx.helper.make_node("Add", ["r", "top"], ["sum"], "added"),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
    reader = next(node for node in model.graph.node if node.output[0] == "v")
    place = list(model.graph.node).index(reader)
    reader.input[0] = "sum"
    for node in reversed(mixed):
        model.graph.node.insert(place, node)
    onnx.save(model, source)
    images = RANDOM.standard_normal((2, 3, 24, 24)).astype(np.float32)
    with pytest.raises(ModelError, match=r"top has shape .* computed over the batch"):
        calibrate(source, [images])
