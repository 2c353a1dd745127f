"""`edgeres run`: answers without torch and the tools, and one line for each error."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.system.assets import asset_path

BLOCKED = ("torch", "onnx", "onnx_ir", "onnxscript", "scipy", "rich", "safetensors", "filelock")
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {BLOCKED!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Blocker())
"""


def test_runs_where_torch_and_all_tools_are_missing(bundle_file, images, target):
    code = BLOCKER + (
        "from edgeres.cli import main\n"
        f"sys.argv = ['edgeres', 'run', '--trust', '--json', '--target', {target!r}, "
        f"{str(bundle_file)!r}, {str(images[1])!r}]\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == target
    assert found["images"][0]["answers"][0]["label"] == "Trouser"


def test_a_real_photograph_gets_labels_and_confidence(bundle_file, tmp_path):
    photograph = tmp_path / "photo.jpg"
    rng = np.random.default_rng(1)
    low = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(low).resize((28, 28), Image.Resampling.BICUBIC).save(photograph)
    result = CliRunner().invoke(app, ["run", str(bundle_file), str(photograph), "--top", "2"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == str(photograph)
    assert len(lines) == 3
    assert all("%" in line for line in lines[1:])


def test_errors_of_the_command_are_one_line_with_their_code(bundle_file, tmp_path):
    (tmp_path / "no.edgeres").write_bytes(b"no bundle")
    image = asset_path("calibration", "README.md")
    for arguments, code in (
        (["run", tmp_path / "none", image], 3),
        (["run", tmp_path / "no.edgeres", image], 3),
        (["run", bundle_file, image], 3),
        (["run", bundle_file, image, "--target", "tpu"], 2),
        (["run", bundle_file, image, "--key", image], 2),
        (["bundle", tmp_path], 3),
    ):
        result = CliRunner().invoke(app, [str(part) for part in arguments])
        assert result.exit_code == code, result.output
        assert len(result.stderr.strip().splitlines()) == 1
        assert "Traceback" not in result.output
