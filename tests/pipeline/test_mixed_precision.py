"""`quantize: {mixed_precision: ...}` of a recipe, on the reference network and a real engine."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.cli import app
from edgeres.data.arrays import ArrayDataset
from edgeres.data.sampling import take, take_held_out
from edgeres.errors import DataError
from edgeres.pipeline import mixed_precision
from edgeres.system.assets import asset_path

RECIPE = """\
name: mixed
model: {{source: net.safetensors}}
data: {{validation_samples: 200, calibration_samples: 64}}
quantize: {{mixed_precision: {{{budget}, samples: 48, candidates: 3, seconds: 0.1}}}}
targets: [{target}]
gates: {{max_drop: 5, min_int8_coverage: {coverage}}}
benchmark: {{seconds: 0.2, threads: 1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    shutil.copyfile(checkpoint, folder / "net.safetensors")
    return folder


def convert(
    folder,
    name: str,
    budget: str,
    *,
    target: str,
    coverage: float = 0.5,
    more: str = "",
    recipe: str = RECIPE,
):
    if (reason := get_backend(target).missing()) is not None:
        pytest.skip(reason)
    file = folder / f"{name}.yaml"
    file.write_text(recipe.format(budget=budget, target=target, coverage=coverage) + more)
    out = str(folder / "out")
    return CliRunner().invoke(app, ["convert", str(file), "--output", out, "--json"])


@pytest.mark.parametrize(
    "target", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_layers_stay_float_until_the_budget_holds(folder, target) -> None:
    plain = convert(folder, "loose", "min_sqnr_db: 10", target=target)
    assert plain.exit_code == 0, plain.output
    before = json.loads(plain.stdout)["targets"][target]
    assert before["float_layers"] == []
    search = json.loads((folder / "out" / target / "mixed_precision.json").read_text())
    assert search["keep_float"] == []
    wanted = search["trials"][0]["effect"]["sqnr_db"] + 0.2
    mixed = convert(folder, "tight", f"min_sqnr_db: {wanted:.2f}", target=target)
    assert mixed.exit_code == 0, mixed.output
    after = json.loads(mixed.stdout)["targets"][target]
    assert after["sqnr_db"] > before["sqnr_db"]
    assert after["int8_coverage"] >= 0.5
    account = json.loads((folder / "out" / target / "model.qdq.json").read_text())
    kept = account["rules"]["keep_float"]
    assert kept
    search = json.loads((folder / "out" / target / "mixed_precision.json").read_text())
    assert sorted(search["keep_float"]) == kept
    assert search["trials"][-1]["effect"]["sqnr_db"] >= wanted - 0.005
    assert all(found["cost_ms"] > 0 for found in search["candidates"])
    assert {account["float_nodes"][name] for name in kept} == {"kept in float: sensitivity"}
    again = convert(folder, "tight", f"min_sqnr_db: {wanted:.2f}", target=target)
    stages = {stage["name"]: stage["cached"] for stage in json.loads(again.stdout)["stages"]}
    assert stages[f"mixed precision ({target})"]


def test_the_search_builds_as_the_recipe_says(folder, monkeypatch) -> None:
    target, plain_build, built = "onnxruntime", mixed_precision.build, []

    def build(*args, **kwargs):
        built.append(plain_build(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(mixed_precision, "build", build)
    assert convert(folder, "plain", "min_sqnr_db: 11", target=target).exit_code == 0
    assert [dict(engine.options) for engine in built] == [{}]
    more = "build: {onnxruntime: {options: {spinning: false}}}\n"
    for times in (2, 2):  # found anew for other engines, then kept
        result = convert(folder, "asked", "min_sqnr_db: 11", target=target, more=more)
        assert result.exit_code == 0, result.output
        assert len(built) == times
    assert dict(built[-1].options) == {"spinning": "false"}


def test_a_budget_that_int8_coverage_forbids_is_an_error(folder) -> None:
    target = "onnxruntime"
    result = convert(folder, "never", "min_sqnr_db: 90", target=target, coverage=0.99)
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["id"] == "gate-failed"
    assert (
        "no engine with 99 % of its MACs in INT8 that was tried holds the budget"
        in error["message"]
    )


def test_fewer_images_than_a_batch_are_an_error(folder) -> None:
    more = "benchmark: {seconds: 0.2, threads: 1, batch_size: 49}\n"
    recipe = RECIPE.replace("benchmark: {{seconds: 0.2, threads: 1}}\n", "")
    assert recipe != RECIPE
    result = convert(
        folder, "few", "min_sqnr_db: 60", target="onnxruntime", more=more, recipe=recipe
    )
    assert result.exit_code == 3, result.output
    error = json.loads(result.stdout)["error"]
    assert "48 images judge mixed precision, too few to time batches of 49" in error["message"]


def test_a_budget_must_be_given(folder) -> None:
    result = convert(folder, "none", "min_sqnr_db: null", target="onnxruntime")
    assert result.exit_code == 2
    assert "give `max_drop`, `min_agreement` or `min_sqnr_db`" in result.stdout


def test_held_out_images_are_none_that_calibrate() -> None:
    labels = np.arange(40, dtype=np.int64) % 3
    pixels = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    images = ArrayDataset("images", pixels, labels)

    def numbers(part) -> set[int]:
        return {int(image[0, 0]) for image in part.images}

    used, held = take(images, 25), take_held_out(images, 25, 15)
    assert numbers(used) | numbers(held) == set(range(40))
    assert not numbers(used) & numbers(held)
    with pytest.raises(DataError, match="16 held-out images were asked for, 15 of 40 are left"):
        take_held_out(images, 25, 16)
    with pytest.raises(DataError, match="0 of 40 are left"):
        take_held_out(images, None, 1)
