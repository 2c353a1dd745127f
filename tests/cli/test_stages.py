"""``edgeres train``, ``prune`` and ``export``: one stage each."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeres.data.preprocess import Preprocess
from edgeres.models.checkpoint import Checkpoint
from edgeres.models.plan import plan_for
from edgeres.pruning.summary import PruneSummary
from edgeres.recipe.training import TrainingRecipe, TrainSettings
from edgeres.training.run import TrainSummary

from .conftest import invoke

PLAN = plan_for("resnet20", num_classes=10, in_channels=1)
DENSE = Checkpoint(PLAN, {}, preprocess=Preprocess(mean=(0.5,), std=(0.2,), channels=1))


@pytest.fixture
def dense(note):
    return note("edgeres.models.checkpoint.load_checkpoint", DENSE)


@pytest.fixture
def pruned(note, dense):
    note("edgeres.stages.sample_counts.training_labels", np.arange(100) % 10)
    told = {"macs_ratio": "0.5", "epoch": "7", "held_out_top1": "0.951"}
    summary = PruneSummary.of(told, "small.safetensors")
    return note("edgeres.stages.network.prune", summary)


def test_prune_tells_what_the_checkpoint_carries(pruned):
    result = invoke(
        "prune", "net.safetensors", "--output", "small", "--train-data", "npz:t", "--macs-ratio",
        0.5, "--epochs", 2, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "checkpoint": "small.safetensors", "macs_ratio": "0.5", "epoch": "7",
        "held_out_top1": "0.951",
    }  # fmt: skip
    assert pruned.args == (Path("net.safetensors"), Path("small.safetensors"))
    settings = pruned.options["settings"]
    assert (settings.macs_ratio, settings.finetune.epochs) == (0.5, 2)
    assert settings.finetune.held_out == 20  # of a hundred images
    assert "few images: 20 of 100" in result.stderr
    assert pruned.options["preprocess"].mean == (0.5,)
    assert pruned.options["work"] == Path("small.finetune")
    assert pruned.options["latency_on"] is None


def test_prune_by_latency_says_where_it_measures(pruned, note):
    place = SimpleNamespace(target=SimpleNamespace(name="openvino"))
    asked = note("edgeres.layer_latency.device.latency_target_here", place)
    result = invoke(
        "prune", "net.safetensors", "--output", "s", "--train-data", "npz:t", "--allocation",
        "latency", "--target-latency", 0.7, "--latency-on", "openvino",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    line = " ".join(result.stdout.split())
    assert "50.0 % of the multiply-adds top-1 on the held-out images: 95.10 % fine-tuned" in line
    assert pruned.options["latency_on"] is place
    assert asked.args[0].prune.latency_on == "openvino"


def test_a_share_of_multiply_adds_beside_another_budget_is_refused(pruned):
    result = invoke(
        "prune", "net.safetensors", "--output", "s", "--train-data", "npz:t", "--allocation",
        "latency", "--target-latency", 0.7, "--macs-ratio", 0.5,
    )  # fmt: skip
    assert result.exit_code == 2
    assert "`macs_ratio` goes with `allocation: global` or `uniform`" in result.stderr


def test_a_recipe_for_pruning_needs_no_targets_and_no_model(pruned, tmp_path):
    recipe = tmp_path / "p.yaml"
    recipe.write_text("prune: {macs_ratio: 0.4}\npreprocess: {mean: [0.7], std: [0.3]}\n")
    result = invoke(
        "prune", "net.safetensors", "--output", "s", "--train-data", "npz:t", "--recipe", recipe,
        "--threads", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert pruned.options["settings"].macs_ratio == 0.4
    assert pruned.options["preprocess"].mean == (0.7,)
    assert pruned.options["threads"] == 3


def test_another_allocation_drops_the_share_of_the_recipe(pruned, note):
    place = SimpleNamespace(target=SimpleNamespace(name="openvino"))
    note("edgeres.layer_latency.device.latency_target_here", place)
    result = invoke(
        "prune", "net.safetensors", "--output", "s", "--train-data", "npz:t", "--allocation",
        "latency", "--target-latency", 0.7, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "macs_ratio" not in pruned.options["settings"].model_fields_set


def test_train_says_which_epoch_was_best(note, tmp_path):
    (tmp_path / "t.yaml").write_text("architecture: resnet20\n")
    plan = TrainingRecipe(data="npz:t", training=TrainSettings(held_out=10))
    note("edgeres.pipeline.recipe_file.load_training_recipe", plan)
    note("edgeres.stages.sample_counts.training_labels", np.arange(100) % 10)
    summary = TrainSummary("c.safetensors", "ab", "log", 3, 2, 10, 0.9, 5, 0.875, 1.0)
    seen = note("edgeres.stages.network.train", summary)
    result = invoke("train", tmp_path / "t.yaml", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "epoch 2 of 3, held-out top-1 0.9000, test 0.8750" in " ".join(result.stdout.split())
    assert seen.options["settings"].held_out == 10
    assert (
        json.loads(invoke("train", tmp_path / "t.yaml", "--output", "o", "--json").stdout)[
            "best_epoch"
        ]
        == 2
    )


def test_export_parses_the_size_and_counts_what_it_wrote(dense, note, monkeypatch):
    seen = note("edgeres.stages.network.export")
    summary = SimpleNamespace(parameters=1000, macs=2000, opset=20)
    monkeypatch.setattr("edgeres.graph.summary.summarize", lambda path: summary)
    result = invoke("export", "net.safetensors", "--output", "n", "--size", "28,24", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"onnx": "n.onnx", "parameters": 1000, "macs": 2000}
    assert seen.options["image_size"] == (28, 24)
    assert seen.options["settings"].opset == 20
    told = invoke("export", "net.safetensors", "--output", "n", "--size", "28")
    assert "1,000 parameters, 2,000 MACs" in " ".join(told.stdout.split())
    assert seen.options["image_size"] == (28, 28)
    assert invoke("export", "net.safetensors", "--output", "n", "--size", "big").exit_code == 2
