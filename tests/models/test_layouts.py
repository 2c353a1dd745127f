"""Checkpoints as training code of many kinds leaves them: read as the network that they hold."""

from __future__ import annotations

import collections
import json
import pathlib
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.build import build_model
from edgeres.models.checkpoint import load_checkpoint, load_module
from edgeres.models.plan import plan_for
from edgeres.models.weights_file import write_safetensors

PLAN = plan_for("resnet20", num_classes=10, in_channels=1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    module = build_model(PLAN).eval()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.uniform_(-0.1, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    return module


@pytest.fixture
def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(path: Path, network: nn.Module) -> None:
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(load_module(load_checkpoint(path))(images), network(images))


def foreign_class(name: str, module: str, base: type = object) -> type:
    """A class that pickles name and that is not there when they are read."""
    made = type(name, (base,), {"__module__": module})
    sys.modules[module] = types.ModuleType(module)
    setattr(sys.modules[module], name, made)
    return made


@pytest.fixture(params=["zip", "old"])
def saved(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Saves with classes of a library that is gone afterwards."""

    def save(content: object) -> Path:
        path = tmp_path / "last.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
        for name in [n for n in sys.modules if n.startswith("gone")]:
            del sys.modules[name]
        return path

    return save


def test_settings_of_any_class_are_data(saved, state, network) -> None:
    """Lightning's AttributeDict, omegaconf, numpy numbers, paths, deques, partials, enums."""
    import functools

    import numpy

    settings = foreign_class("AttributeDict", "gone_lightning", dict)(lr=0.1, arch_name="mine")
    config = foreign_class("DictConfig", "gone_omegaconf")()
    config._content = {"depth": 20}
    path = saved(
        {
            "state_dict": {"model." + n: t for n, t in state.items()},
            "hyper_parameters": settings,
            "config": config,
            "best": numpy.float64(0.9),
            "where": pathlib.PurePosixPath("a/b"),
            "window": collections.deque([1, 2], maxlen=3),
            "make": functools.partial(dict, a=1),
            "callbacks": {"c": {"best_model_score": torch.tensor(0.9)}},
        }
    )
    same(path, network)


def test_no_class_of_a_pickle_is_imported(tmp_path: Path, state, network) -> None:
    (tmp_path / "gone_bad.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Bad: pass\n"
    )
    bad = foreign_class("Bad", "gone_bad")
    path = tmp_path / "w.pt"
    torch.save({"state_dict": state, "x": bad()}, path)
    del sys.modules["gone_bad"]
    sys.path.insert(0, str(tmp_path))
    try:
        same(path, network)
    finally:
        sys.path.remove(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_gives_its_weights(tmp_path: Path, network) -> None:
    for content in (network, {"model": network, "epoch": 3}):
        torch.save(content, tmp_path / "w.pt")
        same(tmp_path / "w.pt", network)
    # The old format holds the source of every class, which torch reads as no data.
    torch.save(network, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="none of it was run") as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert "--model mymodel.py:build" in caught.value.hint


def test_a_pickled_module_that_is_another_network_is_refused(tmp_path: Path, network) -> None:
    import copy

    def saved(module: nn.Module) -> Path:
        torch.save(module, tmp_path / "w.pt")
        return tmp_path / "w.pt"

    other = copy.deepcopy(network)
    other.layer2[0].conv1.stride = (1, 1)
    with pytest.raises(ModelError, match=r"'layer2\.0\.conv1' has stride"):
        load_checkpoint(saved(other))
    other = copy.deepcopy(network)
    other.layer1[0].relu = nn.SiLU()
    with pytest.raises(ModelError, match=r"holds a network with SiLU at 'layer1\.0\.relu'"):
        load_checkpoint(saved(other))


def test_shards_and_folders(tmp_path: Path, state, network) -> None:
    names = list(state)
    parts = {"a.safetensors": names[:50], "b.safetensors": names[50:]}
    for name, held in parts.items():
        write_safetensors(tmp_path / name, {n: state[n] for n in held}, {})
    index = {"weight_map": {n: name for name, held in parts.items() for n in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    same(tmp_path, network)
    same(tmp_path / "model.safetensors.index.json", network)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names 'b\.safetensors', which is not there"):
        load_checkpoint(tmp_path)
    for name in ("../w.safetensors", "/etc/passwd"):
        index["weight_map"]["x"] = name
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="outside its folder"):
            load_checkpoint(tmp_path)


def test_a_folder_says_what_it_lacks(tmp_path: Path, state) -> None:
    with pytest.raises(ModelError, match=r"one file of weights .*, got none"):
        load_checkpoint(tmp_path)
    torch.save(state, tmp_path / "one.pth")
    assert load_checkpoint(tmp_path).plan == PLAN
    torch.save(state, tmp_path / "two.ckpt")
    with pytest.raises(ModelError, match=r"got one\.pth, two\.ckpt"):
        load_checkpoint(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match="SavedModel, which only TensorFlow can read") as caught:
        load_checkpoint(tmp_path)
    assert "tf2onnx" in caught.value.hint


def test_averaged_weights_beside_raw_ones(tmp_path: Path, state, network) -> None:
    raw = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    kinds = {
        "one": {f"ema_model.{n}": t for n, t in state.items()}
        | {f"online_model.{n}": t for n, t in raw.items()}
        | {"initted": torch.tensor(True), "step": torch.tensor(9)},
        "two": raw | {f"model_ema.module.{n}": t for n, t in state.items()},
        "three": {"model": raw, "model_ema": {"module." + n: t for n, t in state.items()}},
        "four": {"state_dict": {"_orig_mod.module." + n: t for n, t in state.items()}},
        # OpenMMLab's runner swaps the two when it saves.
        "five": {"meta": {"mmengine_version": "0.10"}, "state_dict": state, "ema_state_dict": raw},
    }
    for name, content in kinds.items():
        torch.save(content, tmp_path / f"{name}.pth")
        same(tmp_path / f"{name}.pth", network)


def test_what_is_of_a_loss_is_left_out_and_told(tmp_path: Path, state, network) -> None:
    more = {"criterion.weight": torch.ones(10), "train_acc.total": torch.ones(1)}
    torch.save(
        {"state_dict": {"net." + n: t for n, t in state.items()} | more}, tmp_path / "w.ckpt"
    )
    same(tmp_path / "w.ckpt", network)
    (note,) = load_checkpoint(tmp_path / "w.ckpt").notes
    assert note == "left out, of no network: criterion.weight, train_acc.total."
    torch.save(state | {"mean": torch.ones(1)}, tmp_path / "w.pt")  # it normalizes: another network
    with pytest.raises(ModelError, match="1 unknown: mean"):
        load_checkpoint(tmp_path / "w.pt")


def heads() -> dict[str, tuple[nn.Module, str]]:
    torch.manual_seed(1)
    norm, after = nn.BatchNorm1d(64), nn.BatchNorm1d(10, affine=False)
    for part in (norm, after):
        part.running_mean.uniform_(-1, 1)
        part.running_var.uniform_(0.5, 2)
    return {
        "dropout": (nn.Sequential(nn.Dropout(), nn.Linear(64, 10)), ""),
        "no bias": (nn.Linear(64, 10, bias=False), "no bias"),
        "norm": (nn.Sequential(norm, nn.Dropout(), nn.Linear(64, 10)), "before its classifier"),
        "norm behind": (nn.Sequential(nn.Linear(64, 10), after), "behind its classifier"),
    }


@pytest.mark.parametrize("root", ["fc", "head", "classifier"])
@pytest.mark.parametrize("kind", heads())
def test_heads_of_one_linear_layer(kind: str, root: str, tmp_path: Path, network) -> None:
    import copy

    other, (head, note) = copy.deepcopy(network), heads()[kind]
    other.fc = head.eval()
    state = {n.replace("fc.", f"{root}.", 1): t for n, t in other.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    same(tmp_path / "w.pt", other)
    told = load_checkpoint(tmp_path / "w.pt").notes
    assert [note in text for text in told] == ([True] if note else [])


def test_two_linear_layers_need_code(tmp_path: Path, network) -> None:
    import copy

    other = copy.deepcopy(network)
    other.fc = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    torch.save(other.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="has 2 linear layers") as caught:
        load_checkpoint(tmp_path / "w.pt")
    assert "--model mymodel.py:build" in caught.value.hint


def test_a_pickle_that_builds_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": {1, 2}, "b": frozenset([3])}, protocol=2))
    with pytest.raises(ModelError, match=r"w\.pkl"):
        load_checkpoint(tmp_path / "w.pkl")
