"""`edgeres init`: what it finds out of trained networks and real images, and what it writes."""

import json
import shutil

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from edgeres.cli import app
from edgeres.data.source import open_dataset
from edgeres.pipeline.first_recipe import provable_drop
from edgeres.pipeline.recipe_file import load_recipe
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.network import export
from edgeres.system.assets import asset_path

NAMES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Boot",
)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_images(root, number_of, names, first, count):
    dataset = open_dataset("fashion-mnist", split="validation")
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for row in np.flatnonzero(dataset.labels == number_of[number])[first : first + count]:
            dataset.image(int(row)).save(root / name / f"{row}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("init")
    write_images(folder / "photos" / "train", range(10), NAMES, 0, 12)
    write_images(folder / "photos" / "valid", range(10), NAMES, 12, 12)
    write_images(folder / "ordered", range(10), [f"{k}-{n}" for k, n in enumerate(NAMES)], 0, 12)
    shutil.copyfile(
        asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors"), folder / "net.safetensors"
    )
    export(
        folder / "net.safetensors",
        folder / "bare.onnx",
        image_size=(28, 28),
        settings=ExportSettings(),
    )
    return folder


def looked(place, tmp_path, model, data, *more):
    recipe = tmp_path / "first.yaml"
    done = invoke(
        "init", "--model", place / model, "--data", data, "--output", recipe, "--json", *more
    )
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), recipe


def test_a_checkpoint_says_its_preprocessing_itself(place, tmp_path):
    found, path = looked(place, tmp_path, "net.safetensors", place / "photos")
    assert found["name"] == "resnet20"
    assert found["classes"] == 10
    assert found["data"] == {"validation": 120, "train": 120, "calibration": 120}
    assert found["preprocess_reason"] == "the network says so itself"
    assert "preprocess:" not in path.read_text().replace("# preprocess:", "")
    recipe = load_recipe(path, trusted=True)
    assert recipe.data.train is not None
    assert recipe.gates.max_drop == 3.0
    assert found["command"].endswith("--trust-recipe")  # what it names lies elsewhere


def test_preprocessing_and_order_of_a_file_that_says_nothing(place, tmp_path):
    found, path = looked(place, tmp_path, "bare.onnx", place / "photos")
    assert found["preprocess_certain"]
    assert "Fashion-MNIST's mean" in found["preprocess_reason"]
    assert found["preprocess"]["mean"] == [0.286]
    assert found["tried"]["pixels from 0 to 255"] < 0.3
    assert found["labels"] == list(NAMES)  # the alphabet's order is another
    recipe = load_recipe(path, trusted=True)
    assert recipe.model.labels is not None
    assert "in another order" in found["notes"][-1]


def test_where_the_order_is_right_no_other_is_said(place, tmp_path):
    found, path = looked(place, tmp_path, "bare.onnx", place / "ordered")
    assert found["labels"] == []
    assert load_recipe(path, trusted=True).model.labels is None
    assert found["data"] == {"validation": 120}
    assert "they also judge" in path.read_text()


def test_labels_in_the_wrong_order_are_replaced_and_trust_is_asked_where_it_is_needed(
    place, tmp_path
):
    (tmp_path / "wrong.txt").write_text("\n".join(reversed(NAMES)))
    found, path = looked(
        place, tmp_path, "bare.onnx", place / "photos", "--labels", tmp_path / "wrong.txt"
    )
    assert found["labels"] == list(NAMES)
    assert load_recipe(path, trusted=True).model.labels == str(tmp_path / "first.labels.txt")
    beside = place / "beside.yaml"
    words = ("init", "--model", place / "bare.onnx", "--data", place / "ordered", "--json")
    own = json.loads(invoke(*words, "--output", beside).stdout)
    assert "--trust-recipe" not in own["command"]
    right = tmp_path / "right.txt"
    right.write_text("\n".join(NAMES))
    elsewhere = invoke(*words, "--labels", right, "--output", place / "labelled.yaml")
    assert "--trust-recipe" in json.loads(elsewhere.stdout)["command"]


def test_two_images_of_a_class_are_tried_too(place, tmp_path):
    for folder in (place / "ordered").iterdir():
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:2]:
            shutil.copyfile(file, tmp_path / "few" / folder.name / file.name)
    found, _ = looked(place, tmp_path, "bare.onnx", tmp_path / "few")
    assert "on 20 images" in found["preprocess_reason"]
    assert found["labels"] == []  # two images show no order of classes


def test_images_without_labels_compare_outputs(place, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in sorted((place / "ordered").rglob("*.png"))[:30]:
        shutil.copyfile(file, flat / file.name)
    found, path = looked(place, tmp_path, "bare.onnx", flat)
    assert found["task"] == "outputs"
    assert not found["preprocess_certain"]
    assert "a guess" in found["preprocess_reason"]
    assert load_recipe(path, trusted=True).task is not None


def test_a_network_that_knows_nothing_is_told(place, tmp_path):
    model = onnx.load(place / "bare.onnx")
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.ndim >= 2:
            noise = np.random.default_rng(0).normal(size=values.shape).astype(np.float32) * 0.1
            weight.CopyFrom(onnx.numpy_helper.from_array(noise, weight.name))
    onnx.save(model, tmp_path / "noise.onnx")
    found, _ = looked(tmp_path, tmp_path, "noise.onnx", place / "ordered")
    assert not found["preprocess_certain"]
    assert "more often than luck" in found["preprocess_reason"]
    assert found["labels"] == []


def test_nothing_is_written_over_and_errors_are_one_line(place, tmp_path):
    _, recipe = looked(place, tmp_path, "bare.onnx", place / "ordered")
    again = invoke(
        "init", "--model", place / "bare.onnx", "--data", place / "ordered", "--output", recipe
    )
    assert again.exit_code == 6
    assert "there is such a file already" in again.stderr
    for wrong, code in (
        (("--model", "none.onnx", "--data", place / "ordered"), 3),
        (("--model", place / "bare.onnx", "--data", tmp_path / "none"), 2),
        (("--model", place / "bare.onnx"), 2),
    ):
        assert invoke("init", *wrong).exit_code == code


def test_the_drop_that_so_many_images_can_prove():
    assert 0.1 < provable_drop(10_000) < 0.3
    assert 1.0 < provable_drop(250) < 2.0
    assert provable_drop(50) > provable_drop(500) > provable_drop(5000)
