"""Networks that code makes are pruned without a plan, and cut again to the same channels."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, ModelError
from edgeres.models.weights_file import read_weights
from edgeres.modules.spec import code_spec
from edgeres.pruning.narrowed import KEPT, joined, narrowed, pruned_round
from edgeres.pruning.of_code import prune_code
from edgeres.recipe.prune import PruneSettings

NETWORK = Path(__file__).parents[1] / "convert" / "throwaway" / "code_network.py"
SHAPE = (3, 8, 8)
SETTINGS = PruneSettings(macs_ratio=0.6, round_to=4, samples=16, finetune=None)


@pytest.fixture
def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("code_network", NETWORK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((16, *SHAPE)).astype(np.float32)


def test_a_round_is_done_once_and_found_again(made, images, tmp_path: Path) -> None:
    """The stem writes into the sum without a normalization: its bias is silenced too."""
    dense, data = made.build().eval(), [(images, np.arange(16) % 4)]
    narrow, kept = pruned_round(dense, SETTINGS, data, SHAPE, tmp_path)
    assert 0 < len(kept["stem"]) < 16
    again, same = pruned_round(dense, SETTINGS, data, SHAPE, tmp_path)
    assert same == kept
    with torch.inference_mode():
        torch.testing.assert_close(
            again(torch.from_numpy(images)), narrow(torch.from_numpy(images))
        )
    with pytest.raises(ArtefactError, match="pruned from another network"):
        pruned_round(dense, SETTINGS.replace(macs_ratio=0.5), data, SHAPE, tmp_path)


def test_kept_channels_of_rounds_are_of_the_dense_network(made) -> None:
    assert joined({"a": [0, 2, 5]}, {"a": [1, 2], "b": [3]}) == {"a": [2, 5], "b": [3]}
    with pytest.raises(ModelError, match="no group of channels 'other'"):
        narrowed(made.build(), {"other": [0]}, SHAPE)


@pytest.mark.slow
def test_pruned_in_a_child_and_trained(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "t.npz", images=pixels, labels=np.arange(48) % 4)
    (tmp_path / "net.py").write_text(NETWORK.read_text())
    settings = PruneSettings(
        macs_ratio=0.5, round_to=4, samples=16, iterative_steps=2, epochs_between=1,
        finetune={"epochs": 1, "held_out": 8},
    )  # fmt: skip
    steps: list[tuple[int, int]] = []
    told = prune_code(
        code_spec(f"{tmp_path / 'net.py'}:build", None), tmp_path / "x.onnx",
        tmp_path / "w.safetensors", settings=settings, train_data=f"npz:{tmp_path / 't.npz'}",
        preprocess=Preprocess(scale=0.01), sample_shape=SHAPE, work=tmp_path / "work",
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert 0.3 < float(told["macs_ratio"]) < 0.6
    assert 0 <= float(told["held_out_top1"]) <= 1
    _, metadata = read_weights(tmp_path / "w.safetensors")
    assert set(json.loads(metadata[KEPT])) >= {"stem"}
