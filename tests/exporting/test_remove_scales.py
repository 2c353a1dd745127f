"""The scales of another tool's quantization are taken out: what is left answers nearly alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgeres.errors import ModelError
from edgeres.exporting.import_onnx import import_onnx
from edgeres.exporting.remove_scales import remove_scales
from edgeres.graph.edit import QUANTIZED
from edgeres.graph.session import open_session, run_session
from edgeres.sqnr import sqnr_db

ort_quantization = pytest.importorskip("onnxruntime.quantization")
RANDOM = np.random.default_rng(5)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
    "b": RANDOM.standard_normal(8).astype(np.float32) / 5,
    "v": RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8,
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
}
NETWORK = """
agraph (float[N,3,10,10] x) => (float[N,4] y) {
  c = Conv<pads=[1,1,1,1]>(x, w, b)
  r = Relu(c)
  d = Conv<pads=[1,1,1,1]>(r, v)
  a = Add(d, r)
  s = Relu(a)
  p = GlobalAveragePool(s)
  f = Flatten(p)
  y = Gemm<transB=1>(f, fw)
}
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    graph = parser.parse_graph(NETWORK)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in WEIGHTS.items())
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "x.onnx"
    )
    return tmp_path / "x.onnx"


class Images(ort_quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(RANDOM.standard_normal((4, 2, 3, 10, 10)).astype(np.float32))

    def get_next(self):
        image = next(self.left, None)
        return None if image is None else {"x": image}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_what_a_tool_quantized_comes_back(
    form: str, per_channel: bool, plain: Path, tmp_path: Path
) -> None:
    path = tmp_path / "quantized.onnx"
    ort_quantization.quantize_static(
        plain, path, Images(), quant_format=ort_quantization.QuantFormat[form],
        per_channel=per_channel, activation_type=ort_quantization.QuantType.QUInt8,
        weight_type=ort_quantization.QuantType.QInt8,
    )  # fmt: skip
    model = onnx.load(path)
    assert any(node.op_type in QUANTIZED for node in model.graph.node)
    removed = remove_scales(model)
    onnx.checker.check_model(removed)
    assert not any(node.op_type in QUANTIZED for node in removed.graph.node)
    images = RANDOM.standard_normal((16, 3, 10, 10)).astype(np.float32)
    want, found, rough = (
        run_session(open_session(content), images)["y"]
        for content in (plain.read_bytes(), removed.SerializeToString(), path.read_bytes())
    )
    assert sqnr_db(want, found) > 25
    assert sqnr_db(want, found) > sqnr_db(want, rough)
    with pytest.raises(ModelError, match="quantized already") as caught:
        import_onnx(path, tmp_path / "made.onnx")
    assert "--given-scales remove" in caught.value.hint
    made = import_onnx(path, tmp_path / "made.onnx", remove_given_scales=True)
    assert "its scales were removed" in made.notes[0]


def test_scales_of_run_time_stay(tmp_path: Path) -> None:
    graph = parser.parse_graph(
        "g (float[N,3] x) => (uint8[N,3] y, float s, uint8 z) "
        "{ y, s, z = DynamicQuantizeLinear(x) }"
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match="DynamicQuantizeLinear at 'y' cannot be removed"):
        remove_scales(model)


def test_a_float_network_is_left_alone(plain: Path) -> None:
    model = onnx.load(plain)
    assert remove_scales(model) is model
