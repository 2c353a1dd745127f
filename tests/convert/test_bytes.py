"""`--input uint8` through a whole run: engines, bundle, session and servers take bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgeres
from edgeres.backends.serving import server_names
from edgeres.data.decode import decode_file
from edgeres.errors import DataError

from .conftest import installed, invoke


@pytest.fixture(scope="module")
def in_bytes(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the workplace again, with an input of bytes."""
    out = tmp_path_factory.mktemp("bytes") / "out"
    result = invoke(
        "convert", workplace / "recipe.yaml", "--input", "uint8", "--output", out, "--json"
    )
    assert result.exit_code == 0, result.output
    return out


def targets(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())["targets"]


def test_the_same_is_proven(in_bytes: Path, report: dict[str, Any]) -> None:
    for name, found in targets(in_bytes).items():
        usual = report["targets"][name]
        assert found["verdict"] == usual["verdict"]
        if found["verdict"] == "pass":
            assert found["top1"] == pytest.approx(usual["top1"], abs=0.005)
            assert found["sqnr_db"] > max(30.0, usual["sqnr_db"] - 1.0)
            assert found["int8_coverage"] >= usual["int8_coverage"]


def test_engines_and_preprocessing_say_so(in_bytes: Path) -> None:
    said = json.loads((in_bytes / "baseline" / "preprocess.json").read_text())
    assert (said["scale"], said["mean"], said["std"], said["layout"]) == (1.0, [0.0], [1.0], "nhwc")
    for name in targets(in_bytes):
        image = onnx.load(in_bytes / name / "model.qdq.onnx").graph.input[0].type.tensor_type
        assert image.elem_type == onnx.TensorProto.UINT8
        assert [dim.dim_value for dim in image.shape.dim[1:]] == [28, 28, 1]
    fed = onnx.load(in_bytes / "baseline" / "model.uint8.onnx").graph.input[0]
    assert fed.type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_a_session_answers_as_that_of_floats(
    in_bytes: Path, workplace: Path, tmp_path: Path
) -> None:
    here = [name for name in ("onnxruntime", "openvino") if name in installed()]
    samples = sorted((in_bytes / "baseline" / "samples").glob("*.png"))
    for folder, file in ((in_bytes, "bytes.edgeres"), (workplace / "out", "floats.edgeres")):
        edgeres.bundle(folder, tmp_path / file, targets=here)
    for name in here:
        with (
            edgeres.Session(tmp_path / "bytes.edgeres", target=name) as session,
            edgeres.Session(tmp_path / "floats.edgeres", target=name) as usual,
        ):
            assert session.input.dtype == "uint8"
            found, wanted = session.classify(samples, top=1), usual.classify(samples, top=1)
            assert [one[0].label for one in found] == [one[0].label for one in wanted]
            pixels = np.stack([np.asarray(decode_file(path))[..., None] for path in samples])
            scores = session.infer(pixels)
            np.testing.assert_array_equal(session.infer(pixels.astype(np.float32)), scores)
            fed = np.stack([session.preprocess.apply(decode_file(path)) for path in samples])
            np.testing.assert_array_equal(session.infer(fed), scores)
            with pytest.raises(DataError, match="pixels"):
                session.infer(pixels.astype(np.float32) / 255)
            with pytest.raises(DataError, match="uint8"):
                session.infer(pixels.astype(np.int64))


def test_servers_are_told(in_bytes: Path, tmp_path: Path) -> None:
    assert {"triton", "deepstream"} <= set(server_names())
    result = invoke("bundle", in_bytes, "--serve", "triton", "--output", tmp_path / "triton")
    assert result.exit_code == 0, result.output
    configs = list((tmp_path / "triton").glob("*/config.pbtxt"))
    assert configs
    for config in configs:
        assert "data_type: TYPE_UINT8\n    dims: [ 28, 28, 1 ]" in config.read_text()
    if "tensorrt" not in targets(in_bytes):
        return
    out = tmp_path / "nvinfer"
    assert invoke("bundle", in_bytes, "--serve", "deepstream", "--output", out).exit_code == 0
    (config,) = out.glob("*/config_infer.txt")
    keys = dict(line.split("=") for line in config.read_text().splitlines() if "=" in line)
    assert (keys["net-scale-factor"], keys["offsets"], keys["network-input-order"]) == (
        *("1", "0", "1"),
    )
    for file in out.glob("*/1/*.onnx"):
        image = onnx.load(file).graph.input[0].type.tensor_type
        assert image.elem_type == onnx.TensorProto.FLOAT  # Gst-nvinfer feeds no other


def test_commands_on_such_engines(in_bytes: Path, few_images: str) -> None:
    name = next(name for name in ("onnxruntime", "openvino") if name in installed())
    suffix = targets(in_bytes)[name]["engine"]
    engine = in_bytes / suffix
    baseline = in_bytes / "baseline" / "model.onnx"
    against = ["--data", few_images, "--baseline", baseline, "--max-drop", "5"]
    judged = invoke("validate", engine, *against)
    assert judged.exit_code == 0, judged.output
    compared = invoke("compare", baseline, engine, "--samples", "8")
    assert compared.exit_code == 0, compared.output
    assert "No layer stands out" in compared.output
    timed = invoke("benchmark", engine, "--seconds", "0.1", "--json", "--threads", "1")
    assert timed.exit_code in (0, 1), timed.output
    wrong = invoke("validate", engine, *against, "--mean", "0.286", "--scale", "0.0039215686")
    assert wrong.exit_code == 3, wrong.output
    assert "bytes" in wrong.output


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"export": {"input_layout": "nchw"}}, "`input_layout` is of an input of bytes"),
        ({"export": {"input": "int8"}}, "`export.input`"),
        (
            {"export": {"input": "uint8"}, "model": {"source": "q.onnx", "given_scales": "keep"}},
            "`model.given_scales`",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(changes: dict[str, Any], text: str) -> None:
    said: dict[str, Any] = {"model": {"source": "net.onnx"}, "targets": ("onnxruntime",)}
    with pytest.raises(edgeres.EdgeResError, match=text):
        edgeres.Recipe(**{**said, **changes})
