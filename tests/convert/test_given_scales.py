"""``convert`` on a file that another tool has quantized: its scales are removed or kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeres.errors import ModelError
from edgeres.exporting.import_onnx import import_onnx
from edgeres.exporting.keep_scales import keep_scales
from edgeres.graph.session import open_session, run_session
from edgeres.sqnr import sqnr_db

from .conftest import invoke
from .test_open_models import BODY, network

tools = pytest.importorskip("onnxruntime.quantization")
RANDOM = np.random.default_rng(41)


class Images(tools.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(RANDOM.standard_normal((4, 2, 3, 14, 12)).astype(np.float32))

    def get_next(self):
        image = next(self.left, None)
        return None if image is None else {"x": image}


@pytest.fixture(scope="module", params=["QDQ", "QOperator"])
def quantized(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    plain = network(
        folder / "plain.onnx", "float[N,3,14,12] x", "float[N,4] y",
        BODY.format("x") + "y = Gemm<transB=1>(f, fw)",
    )  # fmt: skip
    tools.quantize_static(
        plain, folder / "net.onnx", Images(), quant_format=tools.QuantFormat[request.param],
        per_channel=True, activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
    )  # fmt: skip
    return folder / "net.onnx"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    images = RANDOM.integers(0, 256, (40, 14, 12, 3), np.uint8)
    file = tmp_path_factory.mktemp("pictures") / "images.npz"
    np.savez(file, images=images, labels=np.arange(40) % 4)
    return f"npz:{file}"


@pytest.mark.filterwarnings("ignore")
def test_the_engine_has_the_scales_of_the_file(quantized: Path, pictures: str, tmp_path: Path):
    result = invoke(
        "convert", "--model", quantized, "--given-scales", "keep", "--data", pictures,
        "--mean", "0.5", "--std", "0.25", "--target", "onnxruntime", "--untrained", "--max-drop",
        "100", "--threads", "1", "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    assert result.exit_code in (0, 1), result.output
    report = json.loads(result.stdout)
    found = report["targets"]["onnxruntime"]
    assert found["int8_coverage"] > 0.9
    least = 0 if found["saturating"] else 15  # the file's weights are not made safe
    assert least < found["sqnr_db"] < 60
    assert not found["saturation_safe"]
    assert "calibrate" in {stage["name"] for stage in report["stages"]}
    images = RANDOM.standard_normal((5, 3, 14, 12)).astype(np.float32)
    came, built = (
        run_session(open_session(path.read_bytes()), images)["y"]
        for path in (quantized, tmp_path / "out" / "onnxruntime" / "model.onnx")
    )
    assert sqnr_db(came, built) > 60


@pytest.mark.filterwarnings("ignore")
def test_a_batch_that_is_written_into_the_file_is_freed(quantized: Path, tmp_path: Path):
    model = onnx.load(quantized)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    import_onnx(tmp_path / "one.onnx", tmp_path / "float.onnx", remove_given_scales=True)
    nodes = keep_scales(tmp_path / "one.onnx", tmp_path / "float.onnx", tmp_path / "kept.onnx")
    assert len(nodes) >= 4
    images = RANDOM.standard_normal((3, 3, 14, 12)).astype(np.float32)
    kept = run_session(open_session((tmp_path / "kept.onnx").read_bytes()), images)["y"]
    came = run_session(open_session(quantized.read_bytes()), images)["y"]
    np.testing.assert_array_equal(kept, came)


def test_a_float_file_has_no_scales_to_keep(quantized: Path, tmp_path: Path):
    plain = quantized.with_name("plain.onnx")
    import_onnx(plain, tmp_path / "float.onnx")
    with pytest.raises(ModelError, match="no scales to keep"):
        keep_scales(plain, tmp_path / "float.onnx", tmp_path / "kept.onnx")


def test_an_output_of_another_form_is_refused(quantized: Path, tmp_path: Path):
    import_onnx(quantized, tmp_path / "float.onnx", remove_given_scales=True)
    model = onnx.load(quantized)
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["flat" if output == name else output for output in node.output]
    axes = onnx.numpy_helper.from_array(np.array([2]), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["flat", "axes"], [name]))
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"its output 'y' is \[1, 4, 1\]"):
        keep_scales(tmp_path / "other.onnx", tmp_path / "float.onnx", tmp_path / "kept.onnx")


def test_what_changes_kept_scales_is_refused(quantized: Path, pictures: str, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{source: {quantized}, given_scales: keep}}\n"
        "quantize: {equalize: true}\ntargets: [onnxruntime]\n"
    )  # fmt: skip
    result = invoke("convert", recipe, "--data", pictures, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "leave quantize.equalize out" in result.output
