"""The whole way: layers measured on an engine, pruned by latency, prediction beside measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import edgeres
from edgeres.assets import asset_path
from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import Checkpoint, save_checkpoint
from edgeres.models.plan import plan_for
from edgeres.progress import Silent
from edgeres.report.schema import StagePart

from ..layer_latency.conftest import runnable_targets

RECIPE = """\
model: {{source: net.safetensors}}
data: {{train: "idx:{images},{labels}", validation_samples: 200, calibration_samples: 64}}
prune: {{allocation: latency, target_latency: 0.7, samples: 64, finetune: null}}
targets: [{target}]
checks: {{max_drop_pp: 100, untrained: true}}
benchmark: {{seconds: 0.5, threads: 1}}
"""


class Kept(Silent):
    def __init__(self) -> None:
        self.parts: list[StagePart] = []

    def finished(self, stage: StagePart) -> None:
        self.parts.append(stage)


@pytest.mark.slow
def test_convert_prunes_by_latency(tmp_path: Path) -> None:
    target = (runnable_targets() or [pytest.skip("no backend can run engines on this machine")])[0]
    # Wide enough that narrowing pays: the reference network is not, on some runtimes.
    plan = plan_for("resnet20", num_classes=10, in_channels=1, width_multiplier=4)
    torch.manual_seed(0)
    state = dict(build_model(plan).state_dict())
    preprocess = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
    wide = Checkpoint(plan, state, preprocess=preprocess)
    save_checkpoint(tmp_path / "net.safetensors", wide)
    images, labels = (
        asset_path("calibration", f"fmnist-test-{part}.gz")
        for part in ("images.idx3-ubyte", "labels.idx1-ubyte")
    )
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(images=images, labels=labels, target=target))
    recipe = edgeres.load_recipe(file, {}, trusted=True)
    heard = Kept()
    report = edgeres.convert(recipe, tmp_path / "out", listener=heard)
    assert report.pruning is not None
    latency = report.pruning.latency
    assert latency is not None
    assert latency.target == target
    assert latency.predicted_ms <= 0.7 * latency.dense_ms
    assert latency.measured_ms == report.targets[target].latency_ms.p50  # type: ignore[union-attr]
    told = json.loads((tmp_path / "out" / "report.json").read_text())["pruning"]["latency"]
    assert set(told) == {"target", "dense_ms", "predicted_ms", "measured_ms"}
    tables = list((tmp_path / "out" / ".stages").glob("latency-*/latency_table.json"))
    assert len(tables) == 1
    # a second run measures no layer and prunes nothing
    again = Kept()
    edgeres.convert(recipe, tmp_path / "out", listener=again)
    cached = {part.name: part.cached for part in again.parts}
    assert cached[f"measure layers ({target})"]
    assert cached["prune and fine-tune"]
    other = recipe.override({"prune.latency_on": "elsewhere"})
    with pytest.raises(UsageError, match="latency_on: elsewhere"):
        edgeres.convert(other, tmp_path / "out")
