"""Images of several shapes go into a letterbox, in `convert` and in the torch-free bundle alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import edgeres
from edgeres.data.source import open_dataset

from .conftest import invoke

SAMPLES = 240
RECIPE = """\
name: boxed
model: {source: net.onnx}
preprocess: {mean: [0.286], std: [0.353], channels: 1, letterbox: 28, letterbox_fill: 0,
  interpolation: bicubic, antialias: false}
data: {validation: "list:table.csv", calibration: "list:table.csv", calibration_samples: 64}
targets: [onnxruntime]
gates: {max_drop: 5}
benchmark: {seconds: 0.1, threads: 1}
"""


@pytest.fixture(scope="module")
def boxed(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference network on garments twice as large whose empty margins are cut off."""
    folder = tmp_path_factory.mktemp("boxed")
    shutil.copyfile(workplace / "out" / "baseline" / "model.onnx", folder / "net.onnx")
    images = open_dataset("fashion-mnist", split="validation").subset(range(SAMPLES))
    lines = ["file,label"]
    for index in range(SAMPLES):
        pixels = np.asarray(images.image(index))
        shown = np.flatnonzero((pixels > 0).any(axis=0))
        tight = Image.fromarray(pixels[:, shown[0] : shown[-1] + 1])
        large = tight.resize((2 * tight.width, 2 * tight.height))
        large.save(folder / f"{index}.png")
        lines.append(f"{index}.png,{images.labels[index]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    result = invoke("convert", folder / "recipe.yaml", "--output", folder / "out", "--json")
    assert result.exit_code == 0, result.output
    return folder


def test_shapes_are_kept_and_accuracy_with_them(boxed) -> None:
    report = json.loads((boxed / "out" / "report.json").read_text())
    assert report["baseline"]["top1"] > 0.8


def test_the_bundle_boxes_as_pillow_does(boxed) -> None:
    made = invoke("bundle", boxed / "out", "--json")
    assert made.exit_code == 0, made.output
    file = boxed / "0.png"
    with edgeres.Session(boxed / "out" / "bundle.edgeres") as session:
        fitted = session.preprocess.fit(Image.open(file))
        ((best, *_),) = session.classify([file])
    smooth = ImageOps.pad(Image.open(file), (28, 28), Image.Resampling.BICUBIC, color=0)
    assert fitted.shape == (28, 28)
    assert np.abs(fitted.astype(int) - np.asarray(smooth)).mean() < 8  # the same picture, sharper
    assert (fitted != np.asarray(smooth)).any()
    told = json.loads(invoke("run", boxed / "out" / "bundle.edgeres", file, "--json").stdout)
    assert told["images"][0]["answers"][0]["index"] == best.index
    label = (boxed / "table.csv").read_text().splitlines()[1].split(",")[1]
    assert best.index == int(label)
