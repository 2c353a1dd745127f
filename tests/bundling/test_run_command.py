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


def ran(*arguments, stdin=None):
    return CliRunner().invoke(app, ["run", *map(str, arguments), "--trust"], input=stdin)


def test_folders_and_a_bad_one_among_others(bundle_file, images, tmp_path):
    for name, path in (("a/one.png", images[0]), ("b/two.png", images[1])):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "b" / "notes.txt").write_text("no image")
    whole = ran(bundle_file, tmp_path, "--json")
    assert whole.exit_code == 0
    found = json.loads(whole.stdout)["images"]
    assert [each["image"] for each in found] == [
        str(tmp_path / "a/one.png"),
        str(tmp_path / "b/two.png"),
    ]
    (tmp_path / "a" / "cut.png").write_bytes(b"no image")
    result = ran(bundle_file, tmp_path, images[2], "--top", "1")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert lines[0::2] == [str(tmp_path / "a/one.png"), str(tmp_path / "b/two.png"), str(images[2])]
    assert "cut.png" in result.stderr
    assert "1 of 4 samples could not be answered" in result.stderr
    told = json.loads(ran(bundle_file, tmp_path, "--json").stdout)["images"]
    assert "error" in told[0]
    (tmp_path / "none").mkdir()
    assert "holds no file that this network can take" in ran(bundle_file, tmp_path / "none").stderr


def test_standard_input_is_an_image_or_names(bundle_file, images):
    wanted = json.loads(ran(bundle_file, images[0], "--json").stdout)["images"][0]["answers"]
    piped = json.loads(ran(bundle_file, "-", "--json", stdin=images[0].read_bytes()).stdout)
    assert piped["images"] == [{"image": "-", "answers": wanted}]
    names = f"{images[0]}\n\n{images[1]}\n".encode()
    piped = json.loads(ran(bundle_file, "-", "--json", stdin=names).stdout)["images"]
    assert [each["image"] for each in piped] == [str(images[0]), str(images[1])]
    assert piped[0]["answers"] == wanted
    for nothing in (b"", b"\xff\xfe\n"):
        assert ran(bundle_file, "-", stdin=nothing).exit_code == 3
    assert ran(bundle_file, "-", "-", stdin=names).exit_code == 2


def test_answers_come_as_names_come(bundle_file, images):
    command = [
        sys.executable,
        "-m",
        "edgeres",
        "run",
        "--trust",
        "--top",
        "1",
        str(bundle_file),
        "-",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        for path in images[:2]:
            child.stdin.write(f"{path}\n{path}\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{path}\n"  # while standard input is still open
            assert "%" in child.stdout.readline()
            assert child.stdout.readline() == f"{path}\n"
            assert "%" in child.stdout.readline()
        child.stdin.close()
        assert child.wait() == 0
