"""An ONNX file is pruned by images alone, from the command line and by a recipe."""

from __future__ import annotations

import json
import shutil

import pytest

from edgeres.backends import get_backend
from edgeres.graph.summary import summarize
from tests.convert.conftest import invoke

pytestmark = [
    pytest.mark.skipif(
        get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
    ),
    pytest.mark.any_cpu("which channels go, not what INT8 engines answer"),
]
RECIPE = """\
name: small
model: {source: net.onnx}
preprocess: {mean: [0.286], std: [0.353]}
data: {validation_samples: 300, calibration_samples: 64}
prune: {macs_ratio: 0.6, samples: 128}
targets: [onnxruntime]
gates: {max_drop: 20}
benchmark: {seconds: 0.2, threads: 1}
"""


@pytest.fixture
def place(workplace, tmp_path):
    shutil.copyfile(workplace / "out" / "baseline" / "model.onnx", tmp_path / "net.onnx")
    (tmp_path / "net.safetensors").write_bytes((workplace / "net.safetensors").read_bytes())
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


def test_the_command_says_what_was_lost(place) -> None:
    recipe = place / "p.yaml"
    recipe.write_text("prune: {samples: 128}\n")
    done = invoke(
        "prune", place / "net.onnx", "--output", place / "small", "--recipe", recipe,
        "--macs-ratio", 0.6, "--data", "fashion-mnist", "--mean", 0.286, "--std", 0.353,
        "--threads", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    dense, small = summarize(place / "net.onnx"), summarize(place / "small.onnx")
    assert f"({small.macs:,} of {dense.macs:,})" in told
    assert f"{small.parameters:,} of {dense.parameters:,} parameters" in told
    assert "% dense," in told
    assert "% pruned outputs there against the dense network's:" in told
    assert "nothing is trained" in done.stderr


def test_a_recipe_prunes_it_and_proves_it(place) -> None:
    done = invoke("convert", place / "small.yaml", "--output", place / "out")
    assert done.exit_code == 0, done.output
    assert "layers are reconstructed, nothing is trained" in " ".join(done.output.split())
    report = json.loads((place / "out" / "report.json").read_text())
    assert 0.55 < report["pruning"]["macs_ratio"] <= 0.6
    assert report["pruning"]["top1"] > report["baseline"]["top1"] - 0.06
    assert report["targets"]["onnxruntime"]["verdict"] == "pass"
    small = summarize(place / "out" / "pruned" / "model.onnx")
    assert small.macs == report["pruning"]["macs"]
    again = invoke("convert", place / "small.yaml", "--output", place / "out", "--verbose")
    assert any(line.split()[:2] == ["prune", "unchanged,"] for line in again.stderr.splitlines()), (
        again.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("net.onnx",), "Give --data, or --train-data"),
        (("net.onnx", "--data", "fashion-mnist", "--epochs", 2), "--epochs trains, and there are"),
        (
            ("net.onnx", "--data", "fashion-mnist", "--allocation", "latency", "--target-latency",
             0.5),
            "not pruned by latency",
        ),
        (("net.safetensors", "--data", "fashion-mnist"), "--data is for an ONNX file"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(place, arguments, told) -> None:
    name, *options = arguments
    done = invoke("prune", place / name, "--output", place / "small", *options)
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.stderr.split())


def test_training_that_is_asked_for_needs_images(place) -> None:
    text = RECIPE.replace("samples: 128}", "samples: 128, finetune: {epochs: 1}}")
    (place / "small.yaml").write_text(text)
    done = invoke("convert", place / "small.yaml", "--output", place / "out")
    assert done.exit_code == 2, done.output
    assert "`prune: {finetune: ...}` trains, and the recipe names no training" in " ".join(
        done.stderr.split()
    )
