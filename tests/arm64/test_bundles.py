"""A bundle from x86 runs on Arm, one that Arm made runs on x86, with the answers recorded in it."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

import edgeres
from edgeres.backends import get_backend
from edgeres.system.assets import asset_path

from .conftest import Arm

CPU = "cortex-a72"
TARGETS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def run_of_x86(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a small conversion on this machine, with weights for every CPU."""
    for name in TARGETS:
        if (reason := get_backend(name).not_executable()) is not None:
            pytest.skip(reason)
    if sys.maxsize < 2**32:
        pytest.skip("needs a 64-bit machine")
    folder = tmp_path_factory.mktemp("run")
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    shutil.copyfile(checkpoint, folder / "net.safetensors")
    (folder / "recipe.yaml").write_text(
        f"name: small\nmodel: {{source: net.safetensors}}\ntargets: [{', '.join(TARGETS)}]\n"
        "data: {validation_samples: 100, calibration_samples: 32}\n"
        "quantize: {saturation_safe: on}\ngates: {max_drop: 20}\nbenchmark: {seconds: 0.1}\n"
    )
    edgeres.convert(edgeres.load_recipe(folder / "recipe.yaml"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def image(run_of_x86: Path) -> Path:
    return sorted((run_of_x86 / "baseline" / "samples").iterdir())[1]


def answers(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        files = json.loads(archive.read("manifest.json"))["files"]
    return {name: entry["sha256"] for name, entry in files.items() if "expected" in name}


@pytest.mark.parametrize("options", [[], ["--rebuild"]])
@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_of_x86_runs(
    arm: Arm, run_of_x86: Path, image: Path, target: str, options: list[str]
) -> None:
    made = edgeres.bundle(run_of_x86, run_of_x86.parent / "x86.edgeres").path
    command = ["-m", "edgeres", "run", made, image, "--target", target, "--trust", "--json"]
    done = arm(CPU, *command, *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"][0]["answers"][0]["label"] == "Trouser"
    found = told["self_test"]["sqnr_db"]
    assert found is None or found > 30


def test_a_bundle_goes_there_and_back(arm: Arm, run_of_x86: Path, image: Path) -> None:
    first = edgeres.bundle(run_of_x86, run_of_x86.parent / "first.edgeres").path
    back = run_of_x86.parent / "arm.edgeres"
    done = arm(CPU, "-m", "edgeres", "bundle", run_of_x86, "--output", back)
    assert done.returncode == 0, done.stderr
    with edgeres.Session(back, target="onnxruntime") as session:
        assert session.classify([image], top=1)[0][0].label == "Trouser"
        found = session.self_test
    # ONNX Runtime sums the same integers; only its last, float steps may round otherwise.
    name = "samples/expected-onnxruntime.json"
    equal = answers(first)[name] == answers(back)[name]
    assert equal == (found.sqnr_db == float("inf"))
    assert found.sqnr_db > 40


def test_a_device_that_is_not_there_has_its_exit_code(
    arm: Arm, run_of_x86: Path, image: Path
) -> None:
    made = edgeres.bundle(run_of_x86, run_of_x86.parent / "device.edgeres").path
    command = ["-m", "edgeres", "run", made, image, "--target", "openvino", "--device", "gpu"]
    done = arm(CPU, *command)
    assert done.returncode == 4, done.stderr
    assert "does not list gpu here" in done.stderr
