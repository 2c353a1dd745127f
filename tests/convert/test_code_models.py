"""``convert`` on networks that Python code makes: the whole way, pruning too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.errors import RecipeError, UsageError
from edgeres.pipeline.find_source import find_source, model_name
from edgeres.pipeline.recipe_file import load_recipe
from edgeres.recipe.recipe import ModelBlock

from .conftest import invoke

pytestmark = pytest.mark.skipif(
    get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
)
NETWORK = (Path(__file__).parent / "throwaway" / "code_network.py").read_text()
RECIPE = """\
name: mine
model: {source: net.py:build}
preprocess: {scale: 0.004, crop: 8}
data:
  {calibration: "npz:p.npz", validation: "npz:p.npz", train: "npz:p.npz", calibration_samples: 16}
prune: {macs_ratio: 0.6, round_to: 4, samples: 16, finetune: {epochs: 1, held_out: 8}}
targets: [onnxruntime]
gates: {untrained: true, max_drop: 100, min_int8_coverage: 0}
benchmark: {seconds: 0.1, threads: 1}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (48, 10, 9, 3), np.uint8)
    np.savez(tmp_path / "p.npz", images=images, labels=np.arange(48) % 4)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.any_cpu("what is quantized here, others hold")
def test_code_is_pruned_and_converted(place: Path) -> None:
    pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
    refused = invoke("convert", place / "recipe.yaml", "--output", place / "out")
    assert refused.exit_code == 2
    assert "names Python code that would run" in refused.output
    arguments = ("convert", place / "recipe.yaml", "--output", place / "out", "--json")
    result = invoke(*arguments, "--trust-recipe")
    assert result.exit_code in (0, 1), result.output
    report = json.loads(result.stdout)
    assert report["targets"]["onnxruntime"]["sqnr_db"] > 15
    dense, pruned = (
        onnx.load(place / "out" / folder / "model.onnx") for folder in ("baseline", "pruned")
    )
    sizes = [sum(len(t.raw_data) for t in model.graph.initializer) for model in (dense, pruned)]
    assert sizes[1] < 0.8 * sizes[0]
    assert [d.dim_value for d in dense.graph.input[0].type.tensor_type.shape.dim[1:]] == [3, 8, 8]
    again = invoke(*arguments, "--trust-recipe")
    stages = {stage["name"]: stage["cached"] for stage in json.loads(again.stdout)["stages"]}
    assert stages["load"]
    assert stages["prune and fine-tune"]


def test_a_recipe_of_a_stranger_runs_no_code(place: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: `model\.source` names Python code"):
        load_recipe(place / "recipe.yaml")
    assert load_recipe(place / "recipe.yaml", trusted=True).model.source.endswith("net.py:build")
    given = load_recipe(place / "recipe.yaml", {"model.source": "mine.py:build"})
    assert given.model.source == "mine.py:build"


def test_code_is_not_pruned_by_latency(place: Path) -> None:
    (place / "recipe.yaml").write_text(
        RECIPE.replace("macs_ratio: 0.6", "allocation: latency, target_latency: 0.5")
    )
    result = invoke("convert", place / "recipe.yaml", "--output", place / "out", "--trust-recipe")
    assert result.exit_code == 2
    assert "is not pruned by latency" in result.output


def test_sources_are_what_their_names_and_content_say(place: Path) -> None:
    found = find_source(ModelBlock(source=f"{place / 'net.py'}:build"))
    assert (found.kind, found.name) == ("module", "net")
    assert model_name("a/net.py:build", "w/best.pth") == "best"
    assert model_name("a/net.py:build", None) == "net"
    code = ModelBlock(source=f"{place / 'net.py'}:build")
    assert find_source(code, outputs=("y",)).outputs == ("y",)
    with pytest.raises(UsageError, match="a sample answer is for a checkpoint"):
        find_source(ModelBlock(source=f"{place / 'net.py'}:build", sample_answer="a.npz"))
    with pytest.raises(UsageError, match="are given as weights"):
        find_source(ModelBlock(source=str(place / "p.npz"), weights="w.pt"))
    with pytest.raises(UsageError, match="neither a model file nor an architecture"):
        find_source(ModelBlock(source="resnet1000"))
