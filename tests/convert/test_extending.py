"""A backend is one folder and a calibrator one file: added to a copy of edgeres, both just work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edgeres
from edgeres.system.assets import asset_folder, asset_path

from .conftest import CHECKPOINT

PARTS = Path(__file__).parent / "throwaway"
RECIPE = """\
model: {source: net.safetensors}
data: {validation_samples: 300, calibration_samples: 64}
quantize: {calibrator: half}
targets: [throwaway]
gates: {max_drop: 30}
benchmark: {seconds: 0.2, threads: 1}
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package that holds one more backend and one more calibrator."""
    folder = tmp_path_factory.mktemp("extended")
    source = Path(edgeres.__file__).parent
    shutil.copytree(source, folder / "edgeres", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "edgeres" / "assets").mkdir(exist_ok=True)
    for kind in ("recipes", "calibration"):
        (folder / "edgeres" / "assets" / kind).symlink_to(asset_folder(kind))
    backend = folder / "edgeres" / "backends" / "throwaway"
    backend.mkdir()
    (backend / "__init__.py").touch()
    shutil.copyfile(PARTS / "backend.py", backend / "backend.py")
    shutil.copyfile(PARTS / "half.py", folder / "edgeres" / "calibrators" / "half.py")
    shutil.copyfile(asset_path("recipes", CHECKPOINT), folder / "net.safetensors")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "edgeres", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_a_new_backend_and_a_new_calibrator_serve_a_whole_run(extended):
    done = run(extended, "convert", "recipe.yaml", "--output", "out", "--json")
    assert done.returncode == 0, done.stderr
    target = json.loads(done.stdout)["targets"]["throwaway"]
    assert target["verdict"] == "pass"
    assert target["int8_coverage"] > 0.9
    table = json.loads(next((extended / "out").rglob("calibration*.json")).read_text())
    assert table["calibrator"] == "half"
    ranges = [tensor["ranges"] for tensor in table["tensors"].values()]
    assert any(r["half"][1] == pytest.approx(r["minmax"][1] / 2) for r in ranges)


def test_both_are_named_to_whoever_asks(extended):
    (extended / "wrong.yaml").write_text(RECIPE.replace("half", "third"))
    done = run(extended, "convert", "wrong.yaml", "--output", "none")
    assert done.returncode == 2
    assert "wrong.yaml:3" in done.stderr
    assert "half, midway, minmax, mse" in done.stderr
    assert "throwaway" in run(extended, "doctor", "--json").stdout
