"""An import that is right on noise and wrong on real images is stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeres
from edgeres.errors import GateError
from edgeres.evaluation import run_folder
from edgeres.exporting.import_onnx import import_onnx
from edgeres.exporting.parity import F32
from edgeres.exporting.real_parity import compare_files
from edgeres.pipeline import loaded


def _save(path: Path, *, limit: float | None) -> Path:
    """A small classifier; its Clip acts from 20 on, which the first layer gives for pixels only."""
    rng = np.random.default_rng(1)
    weights = {
        "w": rng.uniform(0.1, 0.5, (4, 1, 3, 3)).astype(np.float32),
        "fc": rng.standard_normal((4, 3)).astype(np.float32),
        "high": np.array(limit or 0, np.float32),
    }
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1])]
    if limit is not None:
        nodes.append(helper.make_node("Clip", ["a", "", "high"], ["b"]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["b" if limit is not None else "a"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "fc"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def pixels() -> F32:
    """Pixels from 0 to 255, ``(12, 1, 28, 28) float32``."""
    return np.random.default_rng(2).uniform(0, 255, (12, 1, 28, 28)).astype(np.float32)


def test_a_limit_that_noise_never_reaches_is_missed_only_by_noise(tmp_path, pixels) -> None:
    source = _save(tmp_path / "source.onnx", limit=20.0)
    imported = import_onnx(source, tmp_path / "whole.onnx")
    told = compare_files(source, imported.path, pixels)
    assert told["samples"] == 20
    faulty = _save(tmp_path / "faulty.onnx", limit=None)
    noise = np.random.default_rng(0).standard_normal((12, 1, 28, 28)).astype(np.float32)
    assert compare_files(source, faulty, noise)["samples"] == 20
    with pytest.raises(GateError, match="real input") as caught:
        compare_files(source, faulty, pixels)
    assert "on these images" in caught.value.hint


def test_images_of_another_size_are_left_to_who_reads_them_all(tmp_path) -> None:
    source = _save(tmp_path / "source.onnx", limit=20.0)
    assert compare_files(source, source, np.zeros((3, 1, 28, 32), np.float32)) == {}


def test_convert_compares_on_the_validation_images(tmp_path, monkeypatch) -> None:
    source = _save(tmp_path / "source.onnx", limit=20.0)
    real = loaded.load_source

    def faulty(source, folder, **options) -> None:
        real(source, folder, **options)
        _save(folder / run_folder.MODEL, limit=None)

    monkeypatch.setattr(loaded, "load_source", faulty)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(30) % 3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{source: {source.name}}}\ntargets: [onnxruntime]\n"
        "preprocess: {scale: 1.0, mean: [0.0], std: [1.0], channels: 1}\n"
        "data: {validation: 'npz:data.npz', calibration: 'npz:data.npz'}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GateError, match="real input"):
        edgeres.convert(edgeres.load_recipe(recipe), tmp_path / "out")
