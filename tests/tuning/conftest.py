"""Recipes, tries and figures to search with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import edgeres
from edgeres.recipe.recipe import Recipe
from edgeres.system.assets import asset_path
from edgeres.tuning.record import Measured, Try
from edgeres.tuning.settings import Candidate

from ..layer_latency.conftest import runnable_targets

RECIPE = """\
name: small
model: {{source: net.safetensors}}
data: {{train: "idx:{images},{labels}", validation_samples: 300, calibration_samples: 32}}
prune: {{samples: 64, finetune: {{epochs: 3, held_out: 100}}}}
targets: [{target}]
gates: {{max_drop: 20}}
benchmark: {{seconds: 0.1, threads: 1}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The reference network, trained on by the test images (there are no others here)."""
    targets = runnable_targets()
    if not targets:
        pytest.skip("no backend can run engines on this machine")
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    shutil.copyfile(checkpoint, tmp_path / "net.safetensors")
    images, labels = (
        asset_path("calibration", f"fmnist-test-{part}.gz")
        for part in ("images.idx3-ubyte", "labels.idx1-ubyte")
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(images=images, labels=labels, target=targets[0]))
    return edgeres.load_recipe(file, {}, trusted=True)


def measured(latency_ms: float, drop_pp: float, verdict: str = "pass") -> Measured:
    return Measured(
        latency_ms=latency_ms,
        fp32_latency_ms=10.0,
        speedup=10.0 / latency_ms,
        metric="top-1",
        unit="pp",
        value=90.0,
        drop=drop_pp,
        drop_upper=drop_pp + 0.1,
        max_drop=0.5,
        verdict=verdict,
        macs_ratio=0.5,
    )


def tried(number: int, found: Measured | None, error: str = "") -> Try:
    return Try(number, Candidate("onnxruntime", 0.5, "l2", "mse"), found, error)
