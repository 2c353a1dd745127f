"""Quantization-aware training from a recipe and from the command line, on a tiny network."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import edgeres
from edgeres.cli import app
from edgeres.data.arrays import ArrayDataset
from edgeres.errors import UsageError

RECIPE = """\
name: tiny
model: {source: fp32.onnx}
preprocess: {mean: [0.3], std: [0.4], channels: 1}
data: {calibration: "npz:data.npz", validation: "npz:data.npz", calibration_samples: 48}
quantize: {saturation_safe: "off", qat: {epochs: 1, batch_size: 32, held_out: 24, flip: false}}
targets: [onnxruntime]
gates: {max_drop: 50, untrained: true, min_int8_coverage: 0}
benchmark: {seconds: 0.05}
"""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, trained_net: Path, make_set) -> Path:
    """A folder with the trained network, its images and a recipe."""
    shutil.copyfile(trained_net / "fp32.onnx", tmp_path / "fp32.onnx")
    parts: dict[str, ArrayDataset] = {"train": make_set(120, 3), "val": make_set(48, 1)}
    arrays = {}
    for name, part in parts.items():
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = part.images, part.labels
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_without_training_images_nothing_begins(folder: Path) -> None:
    recipe = edgeres.load_recipe(folder / "recipe.yaml")
    with pytest.raises(UsageError, match="names no training images"):
        edgeres.convert(recipe, folder / "out")
    assert not (folder / "out").exists()


def test_convert_trains_once_and_says_what_came_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two targets whose rules differ in name alone share one training; a second run trains none."""
    pytest.importorskip("onnxruntime")
    from edgeres.backends import target as targets
    from edgeres.pipeline import inputs as pipeline
    from edgeres.pipeline import qat as stage_of

    recipe = edgeres.load_recipe(
        folder / "recipe.yaml", {"data.train": f"npz:{folder / 'data.npz'}"}
    )
    runs: list[str] = []
    original = stage_of.qat

    def counted(*args: object, **more: object) -> object:
        runs.append(more["rules"].name)  # type: ignore[attr-defined]
        return original(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_of, "qat", counted)
    opened = targets.open_target("onnxruntime")
    renamed = dataclasses.replace(opened, rules=dataclasses.replace(opened.rules, name="twin"))
    for target in (opened, renamed):
        monkeypatch.setattr(pipeline, "open_targets", lambda *_, chosen=target, **__: [chosen])
        report = edgeres.convert(recipe, folder / "out")
        assert report.targets["onnxruntime"].executed
        account = json.loads((folder / "out/onnxruntime/model.qdq.json").read_text())
        assert account["rules"]["name"] == target.rules.name
        assert len(account["qat"]["history"]) == 1
        assert account["qat"]["held_out"] == 24
    assert runs == ["onnxruntime-cpu"]
    stage = next((folder / "out/.stages").glob("qat-*"))
    assert len((stage / "train_log.jsonl").read_text().splitlines()) == 1


def test_the_command_line_trains_before_it_writes(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    data = f"npz:{folder / 'data.npz'}"
    command = [
        "quantize", folder / "fp32.onnx", "--output", folder / "q.onnx", "--target", "onnxruntime",
        "--data", data, "--recipe", folder / "recipe.yaml", "--json",
    ]  # fmt: skip
    refused = invoke(*command)
    assert refused.exit_code == 2
    assert "training images" in refused.output
    assert not (folder / "q.calibration.json").exists()
    result = invoke(*command, "--train-data", data, "--qat-epochs", 2)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["quantized_nodes"]
    account = json.loads((folder / "q.json").read_text())
    assert len(account["qat"]["history"]) == 2
    assert onnx.load(folder / "q.onnx").graph.node
    assert (folder / "q.trained.safetensors").is_file()
