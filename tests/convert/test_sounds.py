"""From a folder of WAV files to a bundle that says the word, and what is wrong with sounds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeres
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.recipe.training import TrainSettings

from ..tones import LOG_MEL, write_tones, write_wav
from .conftest import installed, invoke

pytest.importorskip("soundfile", reason="the extra audio is not installed")
TARGETS = [name for name in ("onnxruntime", "openvino") if name in installed()]
ENGINE = {"onnxruntime": "onnxruntime/model.onnx", "openvino": "openvino/model.xml"}
pytestmark = pytest.mark.skipif(not TARGETS, reason="needs onnxruntime or openvino")

MEL, MEL_LINES = (
    Preprocess(log_mel=LOG_MEL, channels=channels, mean=(-4.0,), std=(4.0,))  # type: ignore[arg-type]
    for channels in (1, LOG_MEL["n_mels"])
)
TRAINING = TrainSettings(
    architecture="resnet8", width_multiplier=0.5, epochs=14, batch_size=16, learning_rate=0.05,
    ema_decay=0.9, time_mask=2, held_out=24, device="cpu", threads=1,
)  # fmt: skip
RECIPE = """\
name: tones
model: {{source: model.safetensors}}
data: {{calibration: "audiofolder:set", validation: "audiofolder:set", train: "audiofolder:set",
  calibration_samples: 60}}
{prune}
targets: [{targets}]
gates: {{max_drop: 6}}
benchmark: {{seconds: 0.1, threads: 1}}
"""
PRUNE = """\
prune: {macs_ratio: 0.7, round_to: 2, samples: 64, finetune: {epochs: 6, batch_size: 16,
  learning_rate: 0.02, time_mask: 2, held_out: 24, threads: 1, device: cpu}}"""
QAT = """\
quantize: {qat: {epochs: 1, batch_size: 16, held_out: 24, time_mask: 2, threads: 1, device: cpu}}"""
RUN_WITHOUT_TORCH = """\
import sys
sys.modules["torch"] = None
from edgeres.cli import app
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones, a network that was trained on them, and what convert made of it."""
    folder = tmp_path_factory.mktemp("sounds")
    write_tones(folder / "set", train=80, val=60)
    summary = edgeres.train(folder, settings=TRAINING, data=f"{folder}/set", preprocess=MEL)
    assert summary.test_top1 is not None
    assert summary.test_top1 > 0.9
    convert(folder, "plain", "")
    return folder


def convert(folder: Path, name: str, prune: str) -> None:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(prune=prune, targets=", ".join(TARGETS)))
    done = invoke("convert", recipe, "--output", folder / name, "--json")
    assert done.exit_code == 0, done.output
    bundled = invoke("bundle", folder / name, "--output", folder / f"{name}.edgeres")
    assert bundled.exit_code == 0, bundled.output


def test_engines_are_proven_on_sounds(place: Path):
    report = json.loads((place / "plain" / "report.json").read_text())
    assert report["baseline"]["samples"] == 180
    for name in TARGETS:
        target = report["targets"][name]
        assert target["verdict"] == "pass"
        assert target["int8_coverage"] == 1
        assert target["quantization_drop_pp"] < 3
        engine = place / "plain" / ENGINE[name]
        done = invoke("validate", engine, "--data", f"{place}/set", "--max-drop", "6", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["top1"] == target["top1"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_says_the_word_without_torch(place: Path, target: str):
    words = ("high", "low", "middle")
    files = [
        place / "set" / "val" / word / f"{number}.wav" for word in words for number in range(9)
    ]
    asked = ["run", place / "plain.edgeres", *files, "--target", target, "--json"]
    clean = os.environ | {"PYTHONPATH": str(Path(edgeres.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", RUN_WITHOUT_TORCH, *map(str, asked)],
        capture_output=True, text=True, check=False, env=clean,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [image["answers"][0]["label"] for image in json.loads(done.stdout)["images"]]
    right = [word for word in words for _ in range(9)]
    assert np.mean([a == b for a, b in zip(found, right, strict=True)]) > 0.85


@pytest.mark.slow
def test_pruning_recovers_on_sounds(place: Path):
    convert(place, "pruned", PRUNE)
    report = json.loads((place / "pruned" / "report.json").read_text())
    assert report["pruning"]["macs_ratio"] <= 0.72
    assert report["pruning"]["top1"] > report["baseline"]["top1"] - 0.05
    assert all(report["targets"][name]["verdict"] == "pass" for name in TARGETS)


LINES = """\
name: lines
model: {{source: {folder}/model.safetensors}}
data: {{calibration: "{data}", validation: "{data}", train: "{data}", calibration_samples: 60}}
{prune}
targets: [{targets}]
gates: {{max_drop: 6}}
benchmark: {{seconds: 0.1, threads: 1}}
"""


def lines(folder: Path, data: str, prune: str, preprocess: Preprocess | None) -> dict[str, Any]:
    """Trains a network over lines, converts and bundles it; the report."""
    settings = TRAINING.replace(architecture="line_resnet8")
    summary = edgeres.train(folder, settings=settings, data=data, preprocess=preprocess)
    assert summary.test_top1 is not None
    assert summary.test_top1 > 0.9
    recipe = folder / "lines.yaml"
    recipe.write_text(
        LINES.format(folder=folder, data=data, prune=prune, targets=", ".join(TARGETS))
    )
    done = invoke("convert", recipe, "--output", folder / "out", "--json", "--trust-recipe")
    assert done.exit_code == 0, done.output
    bundled = invoke("bundle", folder / "out", "--output", folder / "lines.edgeres")
    assert bundled.exit_code == 0, bundled.output
    report: dict[str, Any] = json.loads(done.stdout)
    for name in TARGETS:
        assert report["targets"][name]["verdict"] == "pass"
        assert report["targets"][name]["int8_coverage"] == 1
    return report


@pytest.mark.slow
def test_lines_of_features_take_the_same_path(place: Path, tmp_path: Path):
    parts: dict[str, np.ndarray] = {}
    for split, name in (("train", "train"), ("validation", "val")):
        sounds = open_dataset(f"{place}/set", split=split)
        values = [MEL_LINES.apply(sounds.image(index)) for index in range(len(sounds))]
        parts |= {f"{name}_inputs": np.stack(values), f"{name}_labels": sounds.labels}
    np.savez(tmp_path / "lines.npz", **parts, class_names=np.array(["high", "low", "middle"]))
    lines(tmp_path, f"tensors:{tmp_path}/lines.npz", "", None)
    np.save(tmp_path / "one.npy", parts["val_inputs"][60])  # the first of the low ones
    done = invoke("run", tmp_path / "lines.edgeres", tmp_path / "one.npy", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"][0]["answers"][0]["label"] == "low"


@pytest.mark.slow
def test_lines_of_sounds_are_pruned_and_trained_in_int8(place: Path, tmp_path: Path):
    report = lines(tmp_path, f"audiofolder:{place}/set", f"{PRUNE}\n{QAT}", MEL_LINES)
    assert any("quantization-aware" in stage["name"] for stage in report["stages"])
    assert report["pruning"]["macs_ratio"] <= 0.72
    assert report["pruning"]["top1"] > report["baseline"]["top1"] - 0.05
    word = place / "set" / "val" / "middle" / "3.wav"
    done = invoke("run", tmp_path / "lines.edgeres", word, "--json")
    assert json.loads(done.stdout)["images"][0]["answers"][0]["label"] == "middle"


def test_another_rate_is_resampled_and_said(place: Path, tmp_path: Path):
    write_tones(tmp_path / "fast", train=1, val=60, rate=16_000)
    done = invoke(
        "validate", place / "plain" / ENGINE[TARGETS[0]], "--data", tmp_path / "fast",
        "--baseline", place / "plain" / "baseline" / "model.onnx", "--max-drop", "9",
    )  # fmt: skip
    assert "sounds of 16,000 Hz are resampled to 8,000" in " ".join(done.output.split())
    assert done.exit_code == 0, done.output


def one_line(output: str) -> str:
    text = " ".join(output.split())
    assert "Traceback" not in text
    return text


def test_bad_sounds_are_one_line(place: Path, tmp_path: Path):
    engine = place / "plain" / ENGINE[TARGETS[0]]
    write_wav(tmp_path / "empty.wav", np.zeros(0), 8000)
    done = invoke("run", place / "plain.edgeres", tmp_path / "empty.wav")
    assert done.exit_code == 3
    assert "empty.wav" in one_line(done.output)
    np.savez(
        tmp_path / "f.npz", inputs=np.zeros((90, 1, 5, 6), np.float32), labels=np.arange(90) % 3
    )
    done = invoke("validate", engine, "--data", f"tensors:{tmp_path}/f.npz")
    assert done.exit_code == 3
    assert "gives (N, 1, 5, 6)." in one_line(done.output)
    assert "features need the shape" in one_line(done.output)
    done = invoke("validate", engine, "--data", "fashion-mnist")
    assert done.exit_code == 3
    assert "Expected a sound" in one_line(done.output)
