"""What is said of settings that do not apply, and of sounds that are resampled."""

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.kinds import are_features, only_features, preprocess_for
from edgeres.data.log_mel import LogMel
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset


def test_images_keep_their_settings():
    images = ArrayDataset("a", np.zeros((3, 2, 2), np.uint8), np.arange(3))
    preprocess = Preprocess(resize=4, channels=1)
    assert preprocess_for(images, preprocess) == (preprocess, "")


@pytest.mark.parametrize(
    ("preprocess", "said"),
    [
        (Preprocess(), ""),
        (Preprocess(features=True, mean=(3.0,)), ""),
        (Preprocess(mean=(3.0,), resize=4), "mean, resize of the preprocessing are not applied"),
        (Preprocess(log_mel=LogMel(), channels=1), "log_mel of the preprocessing"),
    ],
)
def test_features_are_taken_as_they_are_and_it_is_said(tmp_path, preprocess, said):
    np.savez(tmp_path / "a.npz", inputs=np.r_[np.full((1, 4), np.nan), np.ones((40, 4))])
    dataset = open_dataset(f"tensors:{tmp_path}/a.npz", split="validation")
    chosen, note = preprocess_for(dataset, preprocess)
    assert (chosen.features, chosen.log_mel) == (True, None)
    assert said in note
    assert bool(said) == bool(note)


def test_sounds_of_another_rate_are_said_to_be_resampled(tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="the extra audio is not installed")
    for index, rate in enumerate((8000, 16_000, 44_100)):
        (tmp_path / f"{index}").mkdir()
        soundfile.write(tmp_path / f"{index}" / "a.wav", np.ones(rate) / 2, rate)
    dataset = open_dataset(f"audiofolder:{tmp_path}", split="validation")
    preprocess = Preprocess(log_mel=LogMel(16_000), channels=1)
    same, note = preprocess_for(dataset, preprocess)
    assert same == preprocess
    assert "8,000, 44,100 Hz are resampled to 16,000" in note
    assert preprocess_for(dataset.subset([1]), preprocess)[1] == ""


def test_a_set_of_which_nothing_can_be_read_may_be_features(tmp_path):
    np.savez(tmp_path / "inf.npz", inputs=np.full((4, 1, 6, 6), np.inf, np.float32))
    broken = open_dataset(f"tensors:{tmp_path}/inf.npz", split="calibration")
    assert only_features(broken)
    assert not are_features(broken)
    assert broken.spread == 1.0  # without a warning
    images = np.zeros((4, 6, 6), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(4))
    assert not only_features(open_dataset(f"npz:{tmp_path}/images.npz", split="validation"))
