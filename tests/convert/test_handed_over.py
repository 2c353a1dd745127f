"""`edgeres.convert` on a torch module of the program itself, and on a recipe with changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import edgeres
from edgeres.backends import get_backend
from edgeres.data.arrays import ArrayDataset
from edgeres.models.checkpoint import load_checkpoint, load_module

pytestmark = [
    pytest.mark.any_cpu("what a program hands over; what is quantized then is as for any file"),
    pytest.mark.skipif(
        get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
    ),
]
PIXELS = edgeres.PreprocessBlock(scale=1 / 255, mean=(0.286,), std=(0.353,), channels=1)
QUICK = {
    "targets": ["onnxruntime"],
    "data.calibration_samples": 64,
    "gates.max_drop": 5,
    "benchmark.seconds": 0.1,
    "benchmark.threads": 1,
}


@pytest.fixture(scope="module")
def images() -> ArrayDataset:
    """400 images of the test set, in memory, as a program has them."""
    dataset = edgeres.open_dataset("fashion-mnist", split="validation")
    pixels = np.stack([np.asarray(dataset.image(index)) for index in range(400)])
    return ArrayDataset("mine", pixels, dataset.labels[:400])


@pytest.fixture
def module(workplace: Path) -> torch.nn.Module:
    """The trained reference network, in the state that a training loop leaves it in."""
    return load_module(load_checkpoint(workplace / "net.safetensors")).train()


class Heads(torch.nn.Module):
    """A network that returns several tensors by their names."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.network(x)
        return {"scores": scores, "margin": scores.amax(1, keepdim=True) - scores.mean(1, True)}


def test_a_module_is_converted_and_stays_as_it_is(module, images, tmp_path):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    out = tmp_path / "out"
    wrapped = torch.nn.DataParallel(module)
    report = edgeres.convert(wrapped, out, validation=images, preprocess=PIXELS, settings=QUICK)
    assert report.exit_code == 0
    assert report.model.name == "module"
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    pixels = torch.from_numpy(images.images[:, None].astype(np.float32) / 255)
    with torch.inference_mode():
        wanted = module.eval()((pixels - 0.286) / 0.353).argmax(1).numpy()
    assert report.baseline.top1 == np.mean(wanted == images.labels)
    assert report.targets["onnxruntime"].int8_coverage == 1.0
    again = edgeres.convert(module, out, validation=images, preprocess=PIXELS, settings=QUICK)
    assert {stage.name: stage.cached for stage in again.stages}["load"]


def test_all_tensors_that_it_returns_are_outputs_of_another_task(module, images, tmp_path):
    settings = {**QUICK, "task": {"name": "outputs"}, "gates.max_drop": None}
    report = edgeres.convert(
        Heads(module).half(), tmp_path, validation=images, preprocess=PIXELS, settings=settings
    )
    assert list(report.targets["onnxruntime"].outputs) == ["scores", "margin"]
    assert [value.name for value in onnx.load(tmp_path / "module.onnx").graph.output] == [
        "scores", "margin",
    ]  # fmt: skip
    notes = [finding.text for finding in report.findings]
    assert any("parameters of float16 became float32." in note for note in notes)


def test_texts_name_samples_and_a_size_is_said(workplace, few_images, tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 10),
    )  # fmt: skip
    settings = {
        **QUICK, "gates.untrained": True, "gates.max_drop": 100, "model.input_size": [20, 24],
        "data.validation_samples": 200, "gates.min_int8_coverage": 0.0,
    }  # fmt: skip
    block = edgeres.PreprocessBlock(resize=(20, 24), channels=1)
    report = edgeres.convert(
        network, tmp_path, validation=few_images, preprocess=block, settings=settings
    )
    assert report.baseline.samples == 200
    shape = onnx.load(tmp_path / "module.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim[1:]] == [1, 20, 24]


def test_a_recipe_takes_changes_too(workplace, few_images, tmp_path):
    recipe = edgeres.load_recipe(workplace / "recipe.yaml")
    changes = {**QUICK, "data.validation_samples": 300}
    report = edgeres.convert(recipe, tmp_path, validation=few_images, settings=changes)
    assert list(report.targets) == ["onnxruntime"]
    assert report.baseline.samples == 300
    with pytest.raises(edgeres.RecipeError, match=r"convert: .*`gates\.max_drops`"):
        edgeres.convert(recipe, tmp_path, settings={"gates.max_drops": 1.0})


def test_what_cannot_be_handed_over_is_one_line(module, images, tmp_path):
    with pytest.raises(edgeres.UsageError, match="needs samples that it is judged by"):
        edgeres.convert(module, tmp_path / "a")
    with pytest.raises(edgeres.UsageError, match=r"a recipe or a torch\.nn\.Module, got str"):
        edgeres.convert("net.onnx", tmp_path / "a", validation=images)  # type: ignore[arg-type]
    computed = torch.nn.Conv2d(1, 4, 3)
    computed.scaled = computed.weight * 2  # torch does not copy a tensor that is computed
    with pytest.raises(edgeres.ModelError, match="Conv2d cannot be copied: RuntimeError"):
        edgeres.convert(computed, tmp_path / "a", validation=images, preprocess=PIXELS)
    colour = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(edgeres.ModelError, match="does not run on two images of shape"):
        edgeres.convert(colour, tmp_path / "a", validation=images, preprocess=PIXELS)
    assert not (tmp_path / "a" / "module.onnx").exists()
