"""An ONNX file is pruned by images alone, and what was lost is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.graph.session import open_session
from edgeres.graph.summary import summarize
from edgeres.pruning.of_onnx import OnnxPruning, prune_onnx
from edgeres.recipe.prune import PruneSettings

PREPARED = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
SETTINGS = PruneSettings(macs_ratio=0.5, samples=256, finetune=None)


def pruning(settings: PruneSettings, *, classes: bool = True) -> OnnxPruning:
    images = open_dataset("fashion-mnist", split="calibration").subset(range(256))
    shown = open_dataset("fashion-mnist", split="validation").subset(range(500))
    return OnnxPruning(settings, PREPARED, images, shown, classes=classes)


def test_half_of_a_trained_network_goes_without_any_training(
    reference_onnx: Path, tmp_path: Path
) -> None:
    told = prune_onnx(reference_onnx, tmp_path / "small.onnx", pruning(SETTINGS), tmp_path)
    sizes = summarize(tmp_path / "small.onnx")
    assert sizes.macs == int(told["macs"]) <= 0.5 * int(told["dense_macs"])
    assert sizes.parameters == int(told["parameters"]) < int(told["dense_parameters"])
    assert int(told["dense_parameters"]) == summarize(reference_onnx).parameters
    assert float(told["dense_held_out_top1"]) > 0.93
    session = open_session((tmp_path / "small.onnx").read_bytes(), threads=1)
    found = [
        (session.run(None, {"input": images})[0].argmax(1), labels)
        for images, labels in batches(pruning(SETTINGS).held_out, PREPARED, 100)
    ]
    own = np.mean(np.concatenate([answers == labels for answers, labels in found]))
    assert own == pytest.approx(float(told["untrained_held_out_top1"]), abs=0.003)
    assert own > 0.88  # recalibrated alone 0.80
    assert float(told["agreement"]) > 0.9
    assert 8 < float(told["sqnr_db"]) < 30


def test_training_follows_the_dense_network_without_labels(
    reference_onnx: Path, tmp_path: Path
) -> None:
    tuned = SETTINGS.replace(
        macs_ratio=0.3,
        samples=128,
        finetune={
            "epochs": 3,
            "batch_size": 16,
            "held_out": 10,
            "device": "cpu",
            "learning_rate": 0.005,
            "flip": False,
            "crop_padding": 0,
            "erase_probability": 0.0,
        },
    )
    steps: list[tuple[int, int]] = []
    told = prune_onnx(
        reference_onnx, tmp_path / "small.onnx", pruning(tuned, classes=False), tmp_path,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert float(told["held_out_sqnr_db"]) > float(told["untrained_held_out_sqnr_db"]) + 0.2
    assert float(told["sqnr_db"]) == pytest.approx(float(told["held_out_sqnr_db"]), abs=0.01)
    assert steps[-1] == (len(steps), len(steps))
