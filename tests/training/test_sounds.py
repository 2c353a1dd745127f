"""Training on sounds and on features: learns, resumes, and refuses what means nothing there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import edgeres
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.errors import DataError, EdgeResError, UsageError
from edgeres.models.checkpoint import load_checkpoint
from edgeres.recipe.training import TrainSettings
from edgeres.training import arrays
from edgeres.training.arrays import ArraySet, load_arrays
from edgeres.training.spectrogram import mask, shift_time

from ..tones import LOG_MEL, SHAPE, write_tones, write_wav

pytest.importorskip("soundfile", reason="the extra audio is not installed")

MEL = Preprocess(log_mel=LOG_MEL, channels=1, mean=(-4.0,), std=(4.0,))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tones(tmp_path_factory.mktemp("tones"))


@pytest.fixture
def quick() -> TrainSettings:
    return TrainSettings(
        architecture="resnet8", width_multiplier=0.5, epochs=10, batch_size=16, learning_rate=0.05,
        ema_decay=0.9, time_mask=2, frequency_mask=1, time_shift=1, held_out=24, device="cpu",
    )  # fmt: skip


def test_a_folder_of_sounds_is_learned(tones, quick, tmp_path):
    result = edgeres.train(tmp_path, settings=quick, data=str(tones), preprocess=MEL)
    assert result.test_samples == 60
    assert result.test_top1 is not None
    assert result.test_top1 > 0.9
    trained = load_checkpoint(tmp_path / result.checkpoint)
    assert trained.preprocess == MEL
    assert trained.class_names == ("high", "low", "middle")
    assert trained.plan.in_channels == 1


def features_file(path: Path, tones: Path, **change: object) -> str:
    """The spectrograms of the tones as ``tensors:``, ``(N, 1, F, T)``."""
    parts: dict[str, np.ndarray] = {}
    for split, name in (("train", "train"), ("validation", "val")):
        dataset = open_dataset(str(tones), split=split)
        parts[f"{name}_inputs"] = np.stack(
            [MEL.apply(dataset.image(i)) for i in range(len(dataset))]
        )
        parts[f"{name}_labels"] = dataset.labels
    np.savez(path, **(parts | change))
    return f"tensors:{path}"


def test_features_train_as_the_sounds_that_they_are_of(tones, quick, tmp_path):
    short = quick.replace(epochs=2)
    data = features_file(tmp_path / "f.npz", tones)
    of_features = edgeres.train(tmp_path / "a", settings=short, data=data)
    of_sounds = edgeres.train(tmp_path / "b", settings=short, data=str(tones), preprocess=MEL)
    assert of_features.weights_sha256 == of_sounds.weights_sha256
    assert of_features.test_top1 == of_sounds.test_top1
    prepared = load_checkpoint(tmp_path / "a" / of_features.checkpoint).preprocess
    assert prepared is not None
    assert prepared.features


def test_the_numbers_are_those_of_deployment(tones):
    dataset = open_dataset(str(tones), split="validation")
    loaded = load_arrays(dataset, MEL)
    assert loaded.values.shape == (60, 1, *SHAPE)
    assert loaded.labels.tolist() == dataset.labels.tolist()
    for row in (0, 31, 59):
        assert np.array_equal(loaded.inputs(slice(row, row + 1))[0], MEL.apply(dataset.image(row)))


def test_shifted_frames_repeat_the_edge():
    values = torch.arange(5.0).expand(200, 1, 2, 5)
    moved = shift_time(values, 2, torch.Generator().manual_seed(0))
    found = {tuple(row) for row in moved[:, 0, 0].tolist()}
    assert found == {
        (0, 0, 0, 1, 2), (0, 0, 1, 2, 3), (0, 1, 2, 3, 4), (1, 2, 3, 4, 4), (2, 3, 4, 4, 4),
    }  # fmt: skip
    assert torch.equal(moved[:, 0, 0], moved[:, 0, 1])
    assert shift_time(values, 0, torch.Generator()) is values


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_masked_stripe_has_the_mean_of_its_sample(axis):
    values = torch.rand(300, 1, 6, 8, generator=torch.Generator().manual_seed(1))
    hidden = mask(values, 3, axis, torch.Generator().manual_seed(0))
    changed = (hidden != values).squeeze(1)
    lines = changed.all(dim=1 if axis == -1 else 2)
    assert torch.equal(changed.sum((1, 2)), lines.sum(1) * (6 if axis == -1 else 8))
    assert set(lines.sum(1).tolist()) == {0, 1, 2, 3}
    assert lines.any(0).all()  # everywhere
    mean = values.mean((1, 2, 3))[:, None, None].expand(-1, 6, 8)
    assert torch.allclose(hidden.squeeze(1)[changed], mean[changed])


def test_each_epoch_changes_samples_anew_and_repeatably(quick):
    data = ArraySet(torch.rand(40, 1, 6, 20), torch.zeros(40, dtype=torch.int64))
    first, again, other = (
        data.augmented(torch.arange(40), quick, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sounds_of_another_rate_are_resampled_and_said(quick, tmp_path):
    other = write_tones(tmp_path / "fast", train=20, val=5, rate=16_000)
    with pytest.warns(UserWarning, match="sounds of 16,000 Hz are resampled to 8,000"):
        edgeres.train(
            tmp_path / "out", settings=quick.replace(epochs=1), data=str(other), preprocess=MEL
        )


def told(caught: pytest.ExceptionInfo[EdgeResError]) -> str:
    assert "\n" not in str(caught.value)
    return f"{caught.value} {caught.value.hint}"


def test_sounds_without_log_mel(tones, quick, tmp_path):
    for preprocess in (None, Preprocess(channels=1)):
        with pytest.raises(UsageError, match="holds sounds") as caught:
            edgeres.train(tmp_path, settings=quick, data=str(tones), preprocess=preprocess)
        assert "log_mel" in told(caught)


def test_an_empty_sound_is_named(quick, tmp_path):
    write_tones(tmp_path / "set", train=20, val=5)
    write_wav(tmp_path / "set/train/low/7.wav", np.zeros(0), 8000)
    with pytest.raises(DataError, match=r"samples in .*low/7\.wav', got 0") as caught:
        edgeres.train(tmp_path, settings=quick, data=str(tmp_path / "set"), preprocess=MEL)
    told(caught)


def test_samples_of_other_dimensions_than_the_network_takes(tones, quick, tmp_path):
    lines = quick.replace(architecture="line_resnet8")
    with pytest.raises(DataError, match=r"shape \(1, 16, 17\), the network takes lines") as caught:
        edgeres.train(tmp_path, settings=lines, data=str(tones), preprocess=MEL)
    assert "line_resnet8" in told(caught)


@pytest.mark.parametrize("shape", [(16,), (16, 17)])
def test_features_of_another_shape(tones, quick, tmp_path, shape):
    data = features_file(
        tmp_path / "f.npz", tones, train_inputs=np.zeros((180, *shape), np.float32)
    )
    with pytest.raises(DataError, match=r"samples of shape \(16") as caught:
        edgeres.train(tmp_path / "out", settings=quick, data=data)
    told(caught)


def test_augmentation_that_means_nothing_is_refused(tones, quick, tmp_path, make_set, preprocess):
    for key in ("flip", "crop_padding", "erase_probability"):
        with pytest.raises(UsageError, match=f"{key} is for images") as caught:
            edgeres.train(
                tmp_path, settings=quick.replace(**{key: 1}) if key != "flip" else
                quick.replace(flip=True), data=str(tones), preprocess=MEL,
            )  # fmt: skip
        told(caught)
    edgeres.train(
        tmp_path, settings=quick.replace(flip=False, epochs=1), data=str(tones), preprocess=MEL
    )
    from edgeres.training.loop import train

    with pytest.raises(UsageError, match="time_shift is for sounds"):
        train(quick, make_set(60), make_set(12, 1), tmp_path / "b", preprocess=preprocess)


def test_too_many_numbers_are_refused(tones, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 60 * 16 * 17 * 4 - 1)
    with pytest.raises(DataError, match="in memory"):
        load_arrays(open_dataset(str(tones), split="validation"), MEL)
