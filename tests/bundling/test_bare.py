"""A bundle runs where nothing but edgeres with one runtime's extra is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_bare_environment_runs_a_bundle(bundle_file, images, tmp_path):
    if not (REPOSITORY / "pyproject.toml").is_file():
        pytest.skip("needs a checkout")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", f"{REPOSITORY}[onnxruntime]"]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"needs a package index: {installed.stderr.strip()[-300:]}")
    probe = [python, "-c", "import torch"]
    assert subprocess.run(probe, capture_output=True, check=False).returncode == 1
    command = [tmp_path / "venv" / "bin" / "edgeres", "run", bundle_file, images[1], "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == "onnxruntime"
    assert found["images"][0]["answers"][0]["label"] == "Trouser"
    # The bundle has an engine whose runtime is not here: asked for, it is named with its cure.
    other = subprocess.run(
        [*command, "--target", "openvino"], capture_output=True, text=True, check=False
    )
    assert other.returncode == 4, other.stdout
    assert "edgeres[openvino]" in json.loads(other.stdout)["error"]["message"]
