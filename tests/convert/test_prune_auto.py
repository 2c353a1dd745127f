"""Pruning that pays or does not happen: ``prune: auto`` and ``only_if_faster``."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.data.source import open_dataset
from edgeres.pipeline import convert as pipeline
from edgeres.recipe.recipe import Recipe
from tests.convert.conftest import invoke

pytestmark = [
    pytest.mark.skipif(
        get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
    ),
    pytest.mark.any_cpu("which network is kept, not what INT8 engines answer"),
]
RECIPE = """\
name: auto
model: {source: net.safetensors}
data: {train: "npz:train.npz", validation_samples: 300, calibration_samples: 32}
prune: {only_if_faster: true, macs_ratio: 0.8, samples: 32, finetune: null}
targets: [onnxruntime]
gates: {max_drop: 20}
benchmark: {seconds: 0.2, threads: 1}
"""


@pytest.fixture
def place(workplace, tmp_path):
    images = open_dataset("fashion-mnist", split="calibration").subset(range(200))
    pixels = np.stack([np.asarray(images.image(row)) for row in range(len(images))])
    np.savez(tmp_path / "train.npz", images=pixels, labels=images.labels)
    (tmp_path / "net.safetensors").write_bytes((workplace / "net.safetensors").read_bytes())
    (tmp_path / "auto.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.parametrize(
    ("gain", "is_pruned"), [(1.02, False), pytest.param(1.5, True, marks=pytest.mark.slow)]
)
def test_the_dense_network_is_kept_where_nothing_is_gained(place, monkeypatch, gain, is_pruned):
    monkeypatch.setattr(pipeline, "pruning_gain", lambda report: gain)
    out = place / "out"
    done = invoke("convert", place / "auto.yaml", "--output", out)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert (report["pruning"] is not None) == is_pruned
    assert (out / "pruned").exists() == is_pruned
    assert ("the dense network is kept" in " ".join(done.output.split())) != is_pruned


def test_the_gain_is_the_best_of_those_that_were_timed():
    def report(*gains):
        parts = {str(n): SimpleNamespace(pruning_speedup=gain) for n, gain in enumerate(gains)}
        return SimpleNamespace(targets=parts)

    assert pipeline.pruning_gain(report(1.01, None, 1.2)) == 1.2
    assert pipeline.pruning_gain(report(None)) is None


def test_auto_is_short_for_it():
    recipe = Recipe(name="a", model={"source": "n.onnx"}, targets=["onnxruntime"], prune="auto")
    assert recipe.prune is not None
    assert recipe.prune.only_if_faster
    assert "only_if_faster" not in recipe.prune.key()
