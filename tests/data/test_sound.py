"""WAV and FLAC files: class folders, lists, samples of a bundle, and files that are none."""

import numpy as np
import pytest

from edgeres.data.batches import batches
from edgeres.data.log_mel import LogMel
from edgeres.data.overlap import find_overlap
from edgeres.data.preprocess import Preprocess
from edgeres.data.sample_file import read_sample
from edgeres.data.samples import names_of, save_samples
from edgeres.data.source import open_dataset
from edgeres.errors import DataError

soundfile = pytest.importorskip("soundfile", reason="the extra audio is not installed")

MEL = Preprocess(log_mel=LogMel(8000, 0.5, 256, None, 128, 16), channels=1)


@pytest.fixture
def place(tmp_path):
    rng = np.random.default_rng(0)
    files = [("no/a.wav", 8000, 1), ("no/b.flac", 16_000, 2), ("yes/c.WAV", 8000, 1)]
    for name, rate, channels in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, rng.uniform(-0.5, 0.5, (rate, channels)), rate)
    (tmp_path / "_background_noise_").mkdir()
    soundfile.write(tmp_path / "_background_noise_" / "d.wav", np.zeros(100), 8000)
    return tmp_path


def test_class_folders(place):
    for spec in (f"audiofolder:{place}", str(place)):
        dataset = open_dataset(spec, split="validation")
        assert dataset.class_names == ("no", "yes")
        assert dataset.labels.tolist() == [0, 0, 1]
    assert "_background_noise_" in dataset.skipped
    ((inputs, _),) = batches(dataset, MEL, 4, workers=2)
    assert inputs.shape == (3, 1, 16, 32)
    assert np.isfinite(inputs).all()
    assert dataset.image(1).size == (16_000, 2)
    assert find_overlap(dataset.subset([2]), dataset) == [(0, 2)]


def test_samples_of_a_bundle_are_the_sounds(place, tmp_path):
    dataset = open_dataset(f"audiofolder:{place}", split="validation")
    (tmp_path / "samples").mkdir()
    save_samples(dataset, tmp_path / "samples")
    names = names_of(tmp_path / "samples")
    assert [path.name for path in names] == ["sample-0.wav", "sample-1.wav", "sample-2.wav"]
    kept = {read_sample(path).tobytes() for path in names}
    assert kept == {dataset.image(index).tobytes() for index in range(3)}


def test_a_table_may_name_sounds(place):
    (place / "val.csv").write_text("file,label\nno/a.wav,0\nyes/c.WAV,1\n")
    dataset = open_dataset(f"list:{place}/val.csv", split="validation")
    assert MEL.apply(dataset.image(1)).shape == (1, 16, 32)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"text", b"RIFF\xff\xff\xff\xffWAVEfmt "])
def test_files_that_are_no_sound_are_named(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.wav") as caught:
        read_sample(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


def test_an_empty_a_missing_and_a_broken_sound_are_named(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    with pytest.raises(DataError, match=r"samples in .*a\.wav', got 0"):
        read_sample(tmp_path / "a.wav")
    with pytest.raises(DataError, match=r"b\.wav.*No such file"):
        read_sample(tmp_path / "b.wav")
    soundfile.write(tmp_path / "c.wav", np.full(9, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(DataError, match="NaN"):
        read_sample(tmp_path / "c.wav")
