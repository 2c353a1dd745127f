"""A folder that has what the documents talk of: networks, photographs, a recipe, a finished run."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.data.source import open_dataset
from edgeres.system.assets import asset_path

ROOT = Path(__file__).parents[2]
CHECKPOINT = "checkpoints/fmnist_resnet20.safetensors"
IMAGES = 300
RECIPE = """\
name: my-recipe
model: {source: net.safetensors}
data: {calibration_samples: 64, validation: "imagefolder:data"}
targets: [onnxruntime, openvino]
gates: {max_drop: 5}
benchmark: {threads: 1, seconds: 0.2}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``edgeres`` and ``python`` as they are in this checkout."""
    programs = tmp_path_factory.mktemp("programs")
    for name, command in (
        ("edgeres", f'"{sys.executable}" "{Path(__file__).with_name("quick_edgeres.py")}"'),
        ("python", f'"{sys.executable}"'),
    ):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(stat.S_IRWXU)
    return programs


@pytest.fixture(scope="session")
def run(programs: Path) -> Run:
    """``run(code, folder)``: shell code in a folder, with those programs."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }

    def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-eu", "-c", code],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """The folder; only to read."""
    folder = tmp_path_factory.mktemp("workshop")
    shutil.copyfile(asset_path("recipes", CHECKPOINT), folder / "net.safetensors")
    images = open_dataset("fashion-mnist", split="validation")
    for index in range(IMAGES):
        number = int(images.labels[index])
        label = f"{number} {images.class_names[number]}".replace("/", "-")  # in the network's order
        picture = Image.fromarray(np.asarray(images.image(index)))
        for name in ("data", "val", "photos")[: 3 if index < IMAGES // 2 else 2]:
            place = folder / name / label / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            picture.save(place)
    picture.save(folder / "image.png")
    picture.save(folder / "photo.jpg")
    (folder / "my-recipe.yaml").write_text(RECIPE)
    for name, safe in (("safe", "on"), ("plain", "off")):
        quantize = f"quantize: {{saturation_safe: {safe}}}\n"
        (folder / f"{name}.yaml").write_text(RECIPE.replace("my-recipe", name) + quantize)
    done = run("edgeres convert my-recipe.yaml --output out", folder)
    assert done.returncode == 0, done.stderr + done.stdout
    stages = shutil.ignore_patterns(".stages")
    for name in ("runs/my-net", "runs/fmnist-wide-resnet20"):
        shutil.copytree(folder / "out", folder / name, ignore=stages)
    for name in ("onnxruntime", "openvino", "baseline"):
        shutil.copytree(folder / "out" / name, folder / name)
    shutil.copyfile(folder / "out/baseline/model.onnx", folder / "net.onnx")
    return folder


@pytest.fixture
def place(workshop: Path, tmp_path: Path) -> Path:
    """A copy of the workshop for one document to work in."""
    return Path(shutil.copytree(workshop, tmp_path / "place"))
