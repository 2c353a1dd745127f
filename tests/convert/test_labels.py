"""Folders whose classes are in another order than the network's, and parts of them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgeres.data.source import open_dataset
from tests.convert.conftest import invoke

pytestmark = pytest.mark.any_cpu("which class is which, not what INT8 engines answer")
NAMES = [
    *("T-shirt top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
]


def write_images(root, names, count):
    """The first so many test images of each class, in a folder of that class's name."""
    dataset = open_dataset("fashion-mnist", split="validation")
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for row in np.flatnonzero(dataset.labels == number)[:count]:
            dataset.image(int(row)).save(root / name / f"{row}.png")


def write_idx(path, array):
    """Magic number, one size a dimension, then the bytes."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def converted(workplace, data, output, *more):
    done = invoke(
        "convert", "--model", workplace / "net.safetensors", "--data", data, "--output", output,
        "--target", "onnxruntime", "--max-drop", "20", "--json", *more,
    )  # fmt: skip
    return done, json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("images")
    write_images(place, NAMES, 25)
    return place


def test_the_alphabet_is_not_the_networks_order(workplace, folder, tmp_path):
    done, report = converted(workplace, folder, tmp_path / "out")
    assert report["baseline"]["top1"] > 0.85
    assert "has its classes in another order than the network; they were matched" in done.stderr
    engine = tmp_path / "out" / report["targets"]["onnxruntime"]["engine"]
    judged = invoke("validate", engine, "--data", folder, "--max-drop", "20", "--json")
    assert judged.exit_code == 0
    assert json.loads(judged.stdout)["top1"] == report["targets"]["onnxruntime"]["top1"]
    assert "matched by name" in judged.stderr


def test_a_part_of_the_classes_by_name(workplace, folder, tmp_path):
    part = tmp_path / "part"
    for name in ("Bag", "Trouser", "Ankle boot"):
        (part / name).mkdir(parents=True)
        for file in (folder / name).iterdir():
            (part / name / file.name).write_bytes(file.read_bytes())
    done, report = converted(workplace, part, tmp_path / "out")
    assert report["baseline"]["top1"] > 0.9
    assert "shows 3 of the network's 10 classes" in done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "edgeres", "convert", "--model", workplace / "net.safetensors",
         "--data", part, "--output", tmp_path / "out", "--target", "onnxruntime"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert "Verdict" in again.stdout
    assert again.stdout.count("shows 3 of the network's 10 classes") == 1
    Image.new("L", (28, 28)).save(part / "Bag" / "black.png")
    (part / "Hat").mkdir()
    Image.new("L", (28, 28)).save(part / "Hat" / "black.png")
    done, report = converted(workplace, part, tmp_path / "other")
    assert done.exit_code == 3
    assert "10 classes" in report["error"]["message"]


@pytest.mark.parametrize("kind", ["npz", "idx", "tensors"])
def test_a_part_of_the_classes_by_number(workplace, tmp_path, kind):
    dataset = open_dataset("fashion-mnist", split="validation")
    rows = np.concatenate([np.flatnonzero(dataset.labels == n)[:30] for n in (0, 1, 4)])
    pixels = np.stack([np.asarray(dataset.image(int(row))) for row in rows])
    labels = dataset.labels[rows]
    file = tmp_path / "part.npz"
    data = f"{kind}:{file}"
    if kind == "npz":
        np.savez(file, images=pixels, labels=labels)
    elif kind == "tensors":
        inputs = (pixels[:, None].astype(np.float32) / 255 - 0.286) / 0.353
        np.savez(file, inputs=inputs, labels=labels)
    else:
        data = f"idx:{tmp_path / 'images'},{tmp_path / 'labels'}"
        write_idx(tmp_path / "images", pixels)
        write_idx(tmp_path / "labels", labels)
    done, report = converted(workplace, data, tmp_path / "out")
    assert done.exit_code == 0, report
    assert report["baseline"]["top1"] > 0.85
    assert done.stderr.count("shows 3 of the network's 10 classes") == 1
    engine = tmp_path / "out" / report["targets"]["onnxruntime"]["engine"]
    judged = invoke("validate", engine, "--data", data, "--max-drop", "20", "--json")
    assert json.loads(judged.stdout)["top1"] == report["targets"]["onnxruntime"]["top1"]


def test_labels_that_are_said_come_first(workplace, folder, tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({str(n): f"thing {n}" for n in range(10)}))
    numbered = tmp_path / "things"
    numbered.mkdir()
    for number, name in enumerate(NAMES):
        (numbered / f"thing_{number}").symlink_to(folder / name)
    _, report = converted(workplace, numbered, tmp_path / "out", "--labels", labels)
    assert report["baseline"]["top1"] > 0.85
    bundled = invoke("bundle", tmp_path / "out", "--json")
    assert bundled.exit_code == 0
    sandal = next((folder / "Sandal").iterdir())
    ran = invoke("run", tmp_path / "out" / "bundle.edgeres", sandal, "--trust", "--json")
    answers = json.loads(ran.stdout)["images"][0]["answers"]
    assert all(answer["label"].startswith("thing ") for answer in answers)
    labels.write_text("one\ntwo\n")
    done, report = converted(workplace, numbered, tmp_path / "none", "--labels", labels)
    assert done.exit_code == 3
    assert "2 class names are given, the network has 10" in report["error"]["message"]
