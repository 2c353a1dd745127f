"""``convert`` on ONNX files that leave something open, or give another form of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgeres.backends import get_backend

from .conftest import invoke

pytestmark = pytest.mark.skipif(
    get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
)
RANDOM = np.random.default_rng(37)
WEIGHTS = {
    "w": RANDOM.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
    "v": RANDOM.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8,
    "fw": RANDOM.standard_normal((4, 8)).astype(np.float32),
    "one": RANDOM.standard_normal((1, 8)).astype(np.float32),
    "mean": np.array(127.5, np.float32),
}
BODY = (
    "c = Conv<pads=[1,1,1,1]>({}, w) r = Relu(c) d = Conv<pads=[1,1,1,1]>(r, v) a = Add(d, r) "
    "p = GlobalAveragePool(a) f = Flatten(p) "
)


def network(path: Path, image: str, scores: str, body: str) -> Path:
    graph = parser.parse_graph(f"net ({image}) => ({scores}) {{ {body} }}")
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in WEIGHTS.items())
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Images for each number of classes."""
    folder = tmp_path_factory.mktemp("pictures")
    images = RANDOM.integers(0, 256, (40, 14, 12, 3), np.uint8)
    for classes in (2, 4):
        np.savez(folder / f"{classes}.npz", images=images, labels=np.arange(40) % classes)
    return {classes: f"npz:{folder / f'{classes}.npz'}" for classes in (2, 4)}


def convert(model: Path, data: str, *more: object) -> Any:
    return invoke(
        "convert", "--model", model, "--data", data, "--target", "onnxruntime", "--untrained",
        "--max-drop", "100", "--threads", "1", "--output", model.parent / "out", "--json", *more,
    )  # fmt: skip


def target(result: Any) -> dict[str, Any]:
    assert result.exit_code in (0, 1), result.output
    found: dict[str, Any] = json.loads(result.stdout)["targets"]["onnxruntime"]
    return found


def test_open_size_and_several_outputs(tmp_path: Path, pictures: dict[int, str]) -> None:
    model = network(
        tmp_path / "net.onnx", "float[b,3,height,width] x", "float[b,4] y, float[b,8] f",
        BODY.format("x") + "y = Gemm<transB=1>(f, fw)",
    )  # fmt: skip
    refused = convert(model, pictures[4], "--scale", "0.004")
    assert refused.exit_code == 3
    assert "Expected one output, got 2: y, f." in refused.output
    assert "--output-name NAME" in refused.output
    twice = convert(model, pictures[4], "--output-name", "y", "--output-name", "f")
    assert twice.exit_code == 2
    found = convert(model, pictures[4], "--scale", "0.004", "--output-name", "y", "--crop", "10")
    assert target(found)["sqnr_db"] > 20
    made = onnx.load(tmp_path / "out" / "baseline" / "model.onnx")
    assert [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, 10, 10]
    assert [value.name for value in made.graph.output] == ["y"]
    other = convert(
        model, pictures[4], "--scale", "0.004", "--output-name", "y", "--input-size", "9,8"
    )
    assert other.exit_code == 3
    assert "[3, 9, 8]" in other.output


def test_two_classes_in_one_score_of_whole_pixels(tmp_path: Path, pictures: dict[int, str]) -> None:
    body = "t = Transpose<perm=[0,3,1,2]>(x) h = Cast<to=1>(t) s = Div(h, mean) "
    model = network(
        tmp_path / "net.onnx", "uint8[N,14,12,3] x", "float[N,1] y",
        body + BODY.format("s") + "l = Gemm<transB=1>(f, one) y = Sigmoid(l)",
    )  # fmt: skip
    found = target(convert(model, pictures[2]))
    assert found["sqnr_db"] > 20
    assert found["agreement"] > 0.9


def test_a_checkpoint_has_no_output_to_name(tmp_path: Path, workplace: Path) -> None:
    refused = invoke(
        "convert", "--model", workplace / "net.safetensors", "--output-name", "logits",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "for an .onnx file or code, not for a checkpoint" in " ".join(refused.output.split())
