"""Pruning and fine-tuning on images: accuracy comes back, and a stopped run goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, UsageError
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module
from edgeres.models.cost import count_macs, count_parameters
from edgeres.pruning.recover import PRUNED_NAME, SPARSE_FOLDER, prune_and_finetune
from edgeres.pruning.summary import PruneSummary, Sizes
from edgeres.recipe.prune import PruneSettings
from edgeres.recipe.training import FinetuneSettings, SparseSettings, TrainSettings
from edgeres.training.loop import train

CLASSES = ("dark", "left", "right")
PREPROCESS = Preprocess(mean=(0.3,), std=(0.4,), channels=1)
TUNING = FinetuneSettings(
    epochs=2, batch_size=32, flip=False, crop_padding=1, ema_decay=0.5, device="cpu"
)
SETTINGS = PruneSettings(macs_ratio=0.4, round_to=4, samples=64, finetune=TUNING)


def halves(count: int, seed: int) -> ArrayDataset:
    """Noise with a bright half that says the class."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 90, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 3
    images[labels == 1, :, :4] += 150
    images[labels == 2, :, 4:] += 150
    return ArrayDataset(f"halves-{seed}", images, labels, CLASSES)


TRAIN, HELD_OUT = halves(192, 0), halves(48, 1)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    settings = TrainSettings(
        width_multiplier=0.5,
        epochs=3,
        batch_size=32,
        learning_rate=0.05,
        warmup_fraction=0.1,
        label_smoothing=0.0,
        flip=False,
        crop_padding=1,
        ema_decay=0.5,
        device="cpu",
    )
    output = tmp_path_factory.mktemp("dense")
    torch.set_num_threads(1)
    return load_checkpoint(
        train(settings, TRAIN, HELD_OUT, output, preprocess=PREPROCESS).checkpoint
    )


def top1(checkpoint: Checkpoint) -> float:
    images = np.stack([PREPROCESS.apply(HELD_OUT.image(i)) for i in range(len(HELD_OUT))])
    with torch.no_grad():
        answers = load_module(checkpoint)(torch.from_numpy(images)).argmax(1).numpy()
    return float((answers == HELD_OUT.labels).mean())


def test_accuracy_comes_back(dense: Checkpoint, tmp_path: Path) -> None:
    assert top1(dense) > 0.95
    seen: list[tuple[int, int]] = []
    pruned = prune_and_finetune(
        dense, SETTINGS, TRAIN, HELD_OUT, tmp_path, progress=lambda *s: seen.append(s)
    )
    ratio = count_macs(load_module(pruned), (1, 8, 8)) / count_macs(load_module(dense), (1, 8, 8))
    assert ratio <= 0.4
    assert float(pruned.metadata["macs_ratio"]) == pytest.approx(ratio, abs=1e-6)
    assert top1(pruned) > 0.95
    assert float(pruned.metadata["held_out_top1"]) == pytest.approx(top1(pruned), abs=1e-4)
    assert json.loads(pruned.metadata["pruning"])["importance"] == SETTINGS.importance
    assert pruned.preprocess == dense.preprocess
    assert pruned.class_names == CLASSES
    untrained = load_checkpoint(tmp_path / PRUNED_NAME)
    assert float(pruned.metadata["dense_held_out_top1"]) == pytest.approx(top1(dense), abs=1e-4)
    assert float(pruned.metadata["untrained_held_out_top1"]) == pytest.approx(
        top1(untrained), abs=1e-4
    )
    assert PruneSummary.of(pruned.metadata, "small").sizes == Sizes(
        (count_macs(load_module(dense), (1, 8, 8)), count_macs(load_module(pruned), (1, 8, 8))),
        (count_parameters(load_module(dense)), count_parameters(load_module(pruned))),
    )
    steps, total = zip(*seen, strict=True)
    assert steps == tuple(range(1, total[0] + 1))  # of pruning and of training, each once
    assert len(steps) > 12 + len(dense.state) // 6  # 192 / 32 steps, two epochs; each layer
    assert set(total) == {len(steps)}
    # a second call finds everything done, without a step of training
    seen.clear()
    again = prune_and_finetune(
        dense, SETTINGS, TRAIN, HELD_OUT, tmp_path, progress=lambda *s: seen.append(s)
    )
    assert seen == []
    assert again.metadata == pruned.metadata
    assert all(torch.equal(again.state[k], v) for k, v in pruned.state.items())


def test_an_interrupted_run_goes_on(
    dense: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prune_and_finetune(dense, SETTINGS, TRAIN, HELD_OUT, tmp_path / "whole")

    def stop(step: int, total: int) -> None:
        if step == total - 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_and_finetune(dense, SETTINGS, TRAIN, HELD_OUT, tmp_path / "cut", progress=stop)
    started = (tmp_path / "cut" / PRUNED_NAME).read_bytes()
    monkeypatch.delattr("edgeres.pruning.recover.prune")  # not done a second time
    seen: list[int] = []
    resumed = prune_and_finetune(
        dense, SETTINGS, TRAIN, HELD_OUT, tmp_path / "cut", progress=lambda s, _: seen.append(s)
    )
    assert len(seen) == 6  # of twelve steps, the second epoch
    assert (tmp_path / "cut" / PRUNED_NAME).read_bytes() == started
    assert resumed.plan == whole.plan
    assert all(torch.equal(resumed.state[k], v) for k, v in whole.state.items())


def test_rounds_with_training_between(dense: Checkpoint, tmp_path: Path) -> None:
    settings = SETTINGS.replace(iterative_steps=2, epochs_between=1)
    seen: list[tuple[int, int]] = []
    pruned = prune_and_finetune(
        dense, settings, TRAIN, HELD_OUT, tmp_path, progress=lambda *s: seen.append(s)
    )
    assert seen == [(i, len(seen)) for i in range(1, len(seen) + 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-1", "round-2"]
    between = load_checkpoint(tmp_path / "round-1" / PRUNED_NAME)
    macs = [count_macs(load_module(c), (1, 8, 8)) for c in (dense, between, pruned)]
    assert 0.4**0.5 - 0.1 < macs[1] / macs[0] <= 0.4**0.5
    assert macs[2] / macs[0] <= 0.4
    assert top1(pruned) > 0.95


def test_sparse_learning_comes_first_and_shrinks_the_scales(
    dense: Checkpoint, tmp_path: Path
) -> None:
    def scales(checkpoint: Checkpoint) -> float:
        names = [name for name in checkpoint.state if name.endswith("running_mean")]
        weights = [checkpoint.state[name.replace("running_mean", "weight")] for name in names]
        return float(sum(weight.abs().sum() for weight in weights))

    slim = SparseSettings(
        epochs=2,
        strength=0.1,
        batch_size=32,
        flip=False,
        crop_padding=1,
        ema_decay=0.5,
        device="cpu",
    )
    settings = SETTINGS.replace(sparse=slim, importance="bn_scale", finetune=None)
    seen: list[tuple[int, int]] = []
    pruned = prune_and_finetune(
        dense, settings, TRAIN, HELD_OUT, tmp_path, progress=lambda *step: seen.append(step)
    )
    assert seen == [(i, len(seen)) for i in range(1, len(seen) + 1)]
    assert len(seen) > 12  # of sparse learning
    slimmed = load_checkpoint(next((tmp_path / SPARSE_FOLDER).glob("*.safetensors")))
    alone = TUNING.replace(distill=False)
    plain = train(alone, TRAIN, HELD_OUT, tmp_path / "plain", start=dense)
    assert scales(slimmed) < 0.97 * scales(load_checkpoint(plain.checkpoint))
    told = json.loads(pruned.metadata["pruning"])
    assert told["sparse"]["strength"] == 0.1
    assert told["finetune"] is None


def test_without_fine_tuning_only_statistics_change(dense: Checkpoint, tmp_path: Path) -> None:
    settings = SETTINGS.replace(finetune=None)
    pruned = prune_and_finetune(dense, settings, TRAIN, HELD_OUT, tmp_path)
    assert "held_out_top1" not in pruned.metadata
    untrained = float(pruned.metadata["untrained_held_out_top1"])
    assert untrained == pytest.approx(top1(pruned), abs=1e-4)
    assert json.loads(pruned.metadata["pruning"])["finetune"] is None
    assert pruned.plan != dense.plan
    assert [p.name for p in tmp_path.iterdir()] == [PRUNED_NAME]


def test_other_settings_in_the_same_folder_are_refused(dense: Checkpoint, tmp_path: Path) -> None:
    prune_and_finetune(dense, SETTINGS, TRAIN, HELD_OUT, tmp_path)
    other = SETTINGS.replace(macs_ratio=0.6)
    before = (tmp_path / PRUNED_NAME).read_bytes()
    with pytest.raises(ArtefactError, match="with other settings or images"):
        prune_and_finetune(dense, other, TRAIN, HELD_OUT, tmp_path)
    assert (tmp_path / PRUNED_NAME).read_bytes() == before
    # other fine-tuning of the same pruned network is told by the training's state
    tuned = SETTINGS.replace(finetune=TUNING.replace(learning_rate=0.01))
    with pytest.raises(ArtefactError, match="other settings"):
        prune_and_finetune(dense, tuned, TRAIN, HELD_OUT, tmp_path)


def test_preprocessing_is_needed(dense: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Pruning needs the preprocessing"):
        prune_and_finetune(
            replace(dense, preprocess=None), SETTINGS, TRAIN, HELD_OUT, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
