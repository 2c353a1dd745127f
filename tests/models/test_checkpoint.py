"""Round trips, inference of the architecture, and files of other training code."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, StorageError, UsageError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module, save_checkpoint
from edgeres.models.plan import ARCHITECTURES, ChannelPlan, plan_for

SMALL = plan_for("resnet20", num_classes=10, in_channels=1)


def make(plan: ChannelPlan = SMALL, **more: object) -> Checkpoint:
    torch.manual_seed(0)
    module = build_model(plan)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return replace(Checkpoint(plan, dict(module.state_dict())), **more)  # type: ignore[arg-type]


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    saved = make(
        preprocess=Preprocess(mean=(0.286,), std=(0.353,), channels=1),
        class_names=("T-shirt", "Hose", "Ärmel", *"defghij"),
        metadata={"top1": "0.9533"},
    )
    save_checkpoint(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert replace(loaded, state={}) == replace(saved, state={})
    assert loaded.state.keys() == saved.state.keys()
    assert all(torch.equal(loaded.state[k], saved.state[k]) for k in saved.state)
    module = load_module(loaded)
    assert not module.training
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(module(images), load_module(saved)(images), rtol=0, atol=0)


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path) -> None:
    checkpoint = make(metadata={str(i): "x" for i in range(9)})
    hashes = set()
    for i in range(6):
        save_checkpoint(tmp_path / f"{i}.safetensors", copy.deepcopy(checkpoint))
        content = (tmp_path / f"{i}.safetensors").read_bytes()
        hashes.add(hashlib.sha256(content).hexdigest())
    assert len(hashes) == 1


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="no space left for"):
        save_checkpoint(path, make(metadata={"new": "1"}))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_saving_weights_of_another_plan_is_refused(tmp_path: Path) -> None:
    wrong = replace(make(), plan=plan_for("resnet32", num_classes=10, in_channels=1))
    with pytest.raises(ModelError, match=r"missing: layer1\.3"):
        save_checkpoint(tmp_path / "a.safetensors", wrong)
    with pytest.raises(ModelError, match="'plan' is no free metadata name"):
        save_checkpoint(tmp_path / "a.safetensors", make(metadata={"plan": "x"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", sorted(n for n in ARCHITECTURES if not n.endswith(("101", "152", "8d", "4d", "152d")))
)
def test_architecture_is_inferred(name: str, tmp_path: Path) -> None:
    plan = plan_for(name, num_classes=7, in_channels=3, width_multiplier=0.25)
    torch.save(build_model(plan).state_dict(), tmp_path / "w.pt")
    inferred = load_checkpoint(tmp_path / "w.pt").plan
    assert (inferred.num_classes, inferred.in_channels) == (7, 3)
    assert inferred.widths == plan.widths
    assert inferred.groups == plan.groups
    # At a quarter of the width, wide and plain ResNets differ in nothing but their label.
    assert replace(inferred.spec, base_width=64) == replace(plan.spec, base_width=64)


@pytest.mark.parametrize("name", ["resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d"])
def test_grouped_architectures_are_told_apart(name: str) -> None:
    from edgeres.models.architecture import infer_plan

    plan = plan_for(name)
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in build_model(plan).state_dict().items()}
    assert infer_plan(shapes, source="x") == plan


def test_pruned_widths_are_inferred(tmp_path: Path) -> None:
    widths = {**SMALL.widths, "layer1.0.conv1": 8, "layer2.1.conv1": 12, "layer3.2.conv1": 40}
    plan = replace(SMALL, widths=widths)
    torch.save(build_model(plan).state_dict(), tmp_path / "w.pt")
    assert load_checkpoint(tmp_path / "w.pt").plan == plan


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.backbone.", "model."])
def test_prefixed_and_wrapped(prefix: str, tmp_path: Path) -> None:
    checkpoint = make()
    state = {prefix + name: tensor for name, tensor in checkpoint.state.items()}
    torch.save({"epoch": 9, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    loaded = load_checkpoint(tmp_path / "w.pth", architecture="resnet20", num_classes=10)
    assert loaded.plan == SMALL
    assert loaded.metadata == {"wrapped_in": "state_dict"}
    assert torch.equal(loaded.state["fc.weight"], checkpoint.state["fc.weight"])


def test_half_precision_becomes_float32_and_counters_may_be_absent(tmp_path: Path) -> None:
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in make().state.items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(state, tmp_path / "w.pt")
    loaded = load_checkpoint(tmp_path / "w.pt")
    assert loaded.state["fc.weight"].dtype == torch.float32
    assert loaded.state["bn1.num_batches_tracked"].item() == 0


def test_foreign_safetensors_without_metadata(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({f"module.{k}": v for k, v in make().state.items()}, tmp_path / "w.safetensors")
    loaded = load_checkpoint(tmp_path / "w.safetensors")
    assert loaded.plan == SMALL
    assert loaded.preprocess is None
    assert loaded.class_names == ()


def test_class_count_and_architecture_are_checked(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ours.safetensors", make())
    torch.save(make().state, tmp_path / "theirs.pt")
    for name in ("ours.safetensors", "theirs.pt"):
        with pytest.raises(ModelError, match="has 10 classes where 100 were expected"):
            load_checkpoint(tmp_path / name, num_classes=100)
        with pytest.raises(ModelError, match="resnet32"):
            load_checkpoint(tmp_path / name, architecture="resnet32")
    with pytest.raises(UsageError, match="Unknown architecture 'resnet21'"):
        load_checkpoint(tmp_path / "theirs.pt", architecture="resnet21")


def test_pooled_resnet_is_recognized(tmp_path: Path) -> None:
    plan = plan_for("pooled_resnet", num_classes=3, in_channels=1)
    torch.save(build_model(plan).state_dict(), tmp_path / "w.pt")
    assert load_checkpoint(tmp_path / "w.pt").plan == plan


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("plan", "{", "not JSON"),
        ("plan", json.dumps({"schema": 99}), "schema 1, got 99"),
        ("preprocess", "[]", "no preprocessing"),
        ("preprocess", '{"skale": 1}', "no preprocessing"),
        ("class_names", '["a"]', "Expected 10 class names in w.safetensors, got 1 entries"),
        ("class_names", "x", "not JSON"),
    ],
)
def test_damaged_metadata_is_named(key: str, text: str, message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    metadata = {"plan": SMALL.to_json(), key: text}
    save_file(dict(make().state), tmp_path / "w.safetensors", metadata)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(tmp_path / "w.safetensors")
