"""The first hour of somebody with a trained network and a few hundred images, command by command.

Five classes, 600 images, two splits, a network that knows more classes than these. Every command
must work at the first try, with nothing said that is not in the README.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgeres.data.source import open_dataset
from edgeres.system.assets import asset_path

pytestmark = pytest.mark.slow

CLASSES = {"Bag": 8, "Trouser": 1, "Ankle boot": 9, "Dress": 3, "Sandal": 5}
TRAIN, VALID = 80, 40
MINUTES = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hour")
    images = open_dataset("fashion-mnist", split="validation")
    for name, number in CLASSES.items():
        rows = np.flatnonzero(images.labels == number)
        for split, part in (("train", rows[:TRAIN]), ("valid", rows[TRAIN : TRAIN + VALID])):
            (folder / "photos" / split / name).mkdir(parents=True)
            for row in part:
                images.image(int(row)).save(folder / "photos" / split / name / f"{row}.png")
    shutil.copyfile(
        asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors"), folder / "net.safetensors"
    )
    return folder


def test_every_command_works_at_the_first_try(place: Path) -> None:
    began = time.monotonic()

    def edgeres(*words: object) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edgeres", *map(str, words)],
            cwd=place, capture_output=True, text=True, check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    assert "Next:   edgeres convert net.yaml" in edgeres(
        "init", "--model", "net.safetensors", "--data", "photos"
    )
    assert "PASS" in edgeres("convert", "net.yaml")
    edgeres(
        "prune", "net.safetensors", "--output", "small.safetensors", "--macs-ratio", "0.6",
        "--train-data", "photos", "--epochs", "2",
    )  # fmt: skip
    edgeres(
        "convert",
        "--model",
        "small.safetensors",
        "--data",
        "photos",
        "--max-drop",
        "5",
        "--output",
        "runs/small",
    )
    edgeres("bundle", "runs/net")
    image = next((place / "photos" / "valid" / "Bag").iterdir())
    answer = json.loads(edgeres("run", "runs/net/bundle.edgeres", image, "--json"))
    assert answer["images"][0]["answers"][0]["label"] == "Bag"
    report = json.loads((place / "runs/net/report.json").read_text())
    engine = place / "runs/net" / report["targets"]["onnxruntime"]["engine"]
    edgeres("validate", engine, "--data", "photos", "--max-drop", "3", "--junit", "gate.xml")
    assert "<failure" not in (place / "gate.xml").read_text()
    edgeres("report", "runs/net")
    assert (place / "runs/net/report.html").stat().st_size > 100_000
    assert time.monotonic() - began < 60 * MINUTES
