"""The program that speaks a keyword set: repeatable, with other voices to test than to train."""

from __future__ import annotations

import hashlib
import shutil
import wave
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@pytest.fixture(scope="module")
def program(load_program) -> ModuleType:
    return load_program(ROOT / "scripts" / "spoken_words.py")


def test_without_the_program_one_line_says_how_to_get_it(program, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"espeak-ng is not on the PATH: install it.*apt-get"):
        program.main([str(tmp_path / "set")])
    assert not (tmp_path / "set").exists()


def test_a_folder_with_something_in_it_is_left_alone(program, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="is not empty"):
        program.main([str(tmp_path)])


def test_voices_to_test_are_not_heard_in_training(program):
    train, val = (program.VOICES[split] for split in ("train", "val"))
    assert not set(train) & set(val)
    assert len(set(train)) == len(train)
    takes = list(program.takes_of({"train": 2, "val": 3}))
    assert len({take.path for take in takes}) == len(takes) == 10 * (2 * len(train) + 3 * len(val))


@needs_espeak
def test_the_same_seed_speaks_the_same(program, monkeypatch, tmp_path):
    monkeypatch.setattr(program, "WORDS", ("yes", "no"))
    monkeypatch.setattr(program, "VOICES", {"train": ("f1", "m1"), "val": ("f3",)})
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        few = ["--seed", str(seed), "--train-takes", "2", "--val-takes", "1"]
        assert program.main([str(tmp_path / name), *few]) == 0
        files = sorted((tmp_path / name).rglob("*.wav"))
        assert len(files) == 2 * (2 * 2 + 1)
        found.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
        with wave.open(str(files[0])) as file:
            assert file.getparams()[:4] == (1, 2, 16_000, 16_000)
            samples = np.frombuffer(file.readframes(16_000), "<i2")
        assert 1000 < np.abs(samples.astype(int)).max() <= 32_767
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])
    assert len(set(found[0])) == len(found[0])
