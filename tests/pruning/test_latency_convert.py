"""The whole way: layers measured on an engine, pruned by latency, prediction beside measurement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import edgeres
from edgeres.cli import app
from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module, save_checkpoint
from edgeres.models.plan import plan_for
from edgeres.pruning.groups import ChannelGraph
from edgeres.system.assets import asset_path
from edgeres.system.progress import Silent, StagePart

from ..layer_latency.conftest import runnable_targets

RECIPE = """\
model: {{source: net.safetensors}}
data: {{train: "idx:{images},{labels}", validation_samples: 200, calibration_samples: 64}}
prune: {{allocation: latency, target_latency: 0.7, samples: 64, finetune: null}}
targets: [{target}]
gates: {{max_drop: 100, untrained: true}}
benchmark: {{seconds: 0.5, threads: 1}}
"""


class Kept(Silent):
    def __init__(self) -> None:
        self.parts: list[StagePart] = []
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def finished(self, stage: StagePart) -> None:
        self.parts.append(stage)


@pytest.fixture
def target() -> str:
    return (runnable_targets() or [pytest.skip("no backend can run engines on this machine")])[0]


@pytest.fixture
def file(target: str, tmp_path: Path) -> Path:
    """A recipe that prunes a random network by latency, with the network beside it."""
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
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(images=images, labels=labels, target=target))
    return path


@pytest.mark.slow
def test_convert_prunes_by_latency(file: Path, target: str, tmp_path: Path) -> None:
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
    assert set(told) == {
        "target", "dense_ms", "predicted_ms", "measured_ms", "built_ms", "uniform_ms", "kept",
    }  # fmt: skip
    assert latency.built_ms is not None
    assert latency.uniform_ms is not None
    assert latency.built_ms <= latency.uniform_ms
    assert [note for note in heard.notes if "round 1 of at most 3" in note]
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


@pytest.mark.slow
def test_the_command_prunes_by_latency(file: Path, target: str, tmp_path: Path) -> None:
    """Without a run of `convert`; a second call finds what the first one measured."""
    output = tmp_path / "small.safetensors"
    arguments = [
        "prune", str(tmp_path / "net.safetensors"), "--output", str(output), "--recipe", str(file),
        "--allocation", "latency", "--target-latency", "0.7", "--latency-on", target,
        "--threads", "1", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["latency_backend"] == f"{target} int8"
    found = told["confirmed_widths"]
    assert found["measured_ms"] <= found["uniform_ms"]
    if found["within_budget"]:
        assert found["measured_ms"] <= 1.02 * 0.7 * float(told["dense_latency_ms"])
    assert float(told["predicted_latency_ms"]) == pytest.approx(found["predicted_ms"], abs=1e-6)
    pruned = load_checkpoint(output)
    groups = {g.name: g.channels for g in ChannelGraph(load_module(pruned), (1, 28, 28)).groups}
    assert {name: groups[name] for name in found["widths"]} == found["widths"]
    before = output.read_bytes()
    table = tmp_path / "small.finetune" / "latency_table.json"
    measured = table.stat().st_mtime_ns
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0, again.output
    assert table.stat().st_mtime_ns == measured
    assert output.read_bytes() == before


def test_goals_and_targets_that_the_command_refuses(file: Path, tmp_path: Path) -> None:
    base = ["prune", str(tmp_path / "net.safetensors"), "--output", str(tmp_path / "o.safetensors")]
    wrong = {
        "target_latency": ["--allocation", "latency"],
        "goes with": ["--target-latency", "0.5"],
        "nowhere": [
            "--allocation",
            "latency",
            "--target-latency",
            "0.5",
            "--latency-on",
            "nowhere",
        ],
    }
    for message, options in wrong.items():
        result = CliRunner().invoke(app, [*base, "--train-data", "fashion-mnist", *options])
        assert result.exit_code == 2, result.output
        assert message in result.output
    assert not (tmp_path / "o.safetensors").exists()
