"""Export, build and prune: files in, files out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgeres.backends import get_backend
from edgeres.backends.base import ShapeRange
from edgeres.data.preprocess import Preprocess
from edgeres.errors import BackendMissingError, ModelError, UsageError
from edgeres.graph.summary import summarize
from edgeres.models.build import build_model
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgeres.models.plan import plan_for
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages import network as module
from edgeres.stages.network import build, export, prune

from .conftest import GREY, grey_images

TARGET = "onnxruntime"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    plan = plan_for("resnet20", num_classes=10, in_channels=1)
    path = tmp_path_factory.mktemp("net") / "net.safetensors"
    save_checkpoint(path, Checkpoint(plan, dict(build_model(plan).state_dict()), preprocess=GREY))
    return path


def test_an_export_has_the_size_and_the_opset_that_were_asked_for(checkpoint, tmp_path):
    settings = ExportSettings(opset=21, dynamic_batch=False)
    export(checkpoint, tmp_path / "net.onnx", image_size=(28, 24), settings=settings)
    summary = summarize(tmp_path / "net.onnx")
    assert summary.opset == 21
    assert summary.inputs[0].shape == (1, 1, 28, 24)


def test_pruning_gives_figures_and_a_checkpoint_that_carries_them(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "open_dataset", lambda spec, split: grey_images(80))
    settings = PruneSettings(macs_ratio=0.5, samples=16, importance="l1", finetune=None)
    summary = prune(
        checkpoint,
        tmp_path / "small.safetensors",
        settings=settings,
        train_data="npz:a.npz",
        preprocess=Preprocess(mean=(0.5,), std=(0.5,), channels=1),
        work=tmp_path / "work",
    )
    assert 0.3 < summary.macs_ratio <= 0.5
    assert summary.held_out_top1 is None
    assert 0 <= summary.dense_top1 <= 1
    assert 0 <= summary.untrained_top1 <= 1
    assert summary.sizes.macs[1] / summary.sizes.macs[0] == pytest.approx(summary.macs_ratio)
    assert summary.confirmed is None
    kept = load_checkpoint(tmp_path / "small.safetensors")
    assert kept.preprocess.mean == (0.5,)
    assert float(kept.metadata["macs_ratio"]) == summary.macs_ratio
    assert dict(summary.metadata) == {k: v for k, v in kept.metadata.items() if k != "pruning"}


def test_threads_reach_all_of_pruning(checkpoint, tmp_path, monkeypatch):
    seen, before = [], torch.get_num_threads()

    def watch(*_, **__):
        seen.append(torch.get_num_threads())
        raise ModelError("seen")

    monkeypatch.setattr(module, "open_dataset", lambda spec, split: grey_images(80))
    monkeypatch.setattr("edgeres.pruning.recover.prune_and_finetune", watch)
    for threads in (before + 1, None):
        with pytest.raises(ModelError, match="seen"):
            prune(
                checkpoint,
                tmp_path / "small.safetensors",
                settings=PruneSettings(finetune=None),
                train_data="npz:a.npz",
                preprocess=Preprocess(mean=(0.5,), std=(0.5,), channels=1),
                work=tmp_path / "work",
                threads=threads,
            )
    assert seen == [before + 1, before]
    assert torch.get_num_threads() == before


def test_a_backend_that_is_not_here_says_how_to_get_it(network, tmp_path, monkeypatch):
    backend = get_backend(TARGET)
    monkeypatch.setattr(type(backend), "missing", lambda self: "pip install it.", raising=False)
    with pytest.raises(BackendMissingError, match="pip install it"):
        build(network, tmp_path / "engine", target=TARGET)


def test_the_suffix_is_added_and_the_model_never_overwritten(network, tmp_path):
    if get_backend(TARGET).missing() is not None:
        pytest.skip("needs onnxruntime")
    engine = build(network, tmp_path / "engine", target=TARGET)
    assert engine.path == tmp_path / f"engine{get_backend(TARGET).engine_suffix}"
    with pytest.raises(UsageError, match="would be overwritten"):
        build(network, network, target=TARGET)


def test_an_isolated_build_is_the_same_engine(network, tmp_path):
    if get_backend(TARGET).missing() is not None:
        pytest.skip("needs onnxruntime")
    here = build(network, tmp_path / "here", target=TARGET)
    apart = build(network, tmp_path / "apart", target=TARGET, isolate=True)
    assert apart.source_sha256 == here.source_sha256
    assert apart.path.read_bytes() == here.path.read_bytes()


def test_a_shape_range_without_a_name_is_the_only_inputs(network, tmp_path):
    one = ShapeRange((1, 1, 28, 28), (1, 1, 28, 28), (4, 1, 28, 28))
    assert module._named({"": one}, network) == {"image": one}
    assert module._named({"image": one}, network) == {"image": one}
