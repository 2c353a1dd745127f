"""Files are known by their content, and read again only where it may have changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.data import hashes as module
from edgeres.data.hashes import MISSING, FileHashes
from edgeres.data.source import open_dataset


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three files; the clock has gone on since they were written."""
    now = time.time_ns()
    monkeypatch.setattr(module.time, "time_ns", lambda: now + 10**12)
    for name in "abc":
        (tmp_path / name).write_text(name)
    return [str(tmp_path / name) for name in "abc"]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Collects one entry for each file that is read."""
    seen: list[object] = []
    real = hashlib.file_digest
    monkeypatch.setattr(
        module.hashlib, "file_digest", lambda stream, kind: seen.append(1) or real(stream, kind)
    )
    return seen


def test_known_files_are_not_read_again(files, opened, tmp_path):
    first = FileHashes(tmp_path / "kept" / "h.json")
    told = first.of(files)
    assert told == [hashlib.sha256(name.encode()).hexdigest() for name in "abc"]
    first.save()
    again = FileHashes(tmp_path / "kept" / "h.json")
    assert again.of(files) == told
    assert len(opened) == 3


def test_a_file_that_just_changed_is_not_remembered(files, opened, tmp_path, monkeypatch):
    monkeypatch.undo()
    (tmp_path / "a").write_text("x")
    hashes = FileHashes()
    assert hashes.of(files[:1]) == hashes.of(files[:1]) == [hashlib.sha256(b"x").hexdigest()]
    assert hashes._known == {}


def test_a_file_replaced_with_its_time_set_back_is_noticed(files):
    hashes = FileHashes()
    before = hashes.of(files)
    status = os.stat(files[0])  # noqa: PTH116
    Path(files[0]).write_text("z")
    os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    after = hashes.of(files)
    assert after[0] == hashlib.sha256(b"z").hexdigest() != before[0]
    assert after[1:] == before[1:]


def test_what_cannot_be_read_is_missing_and_a_pipe_is_not_waited_for(files, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert FileHashes().of([str(tmp_path / "pipe"), str(tmp_path / "none"), "a\0b"]) == 3 * [
        MISSING
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1, "files": {"a": 1}}', '{"schema": 2}'])
def test_a_damaged_memory_is_no_memory(files, opened, tmp_path, text):
    (tmp_path / "h.json").write_text(text)
    assert len(set(FileHashes(tmp_path / "h.json").of(files))) == 3
    assert len(opened) == 3


def test_a_memory_that_cannot_be_kept_costs_nothing_but_time(files, tmp_path):
    (tmp_path / "in_the_way").write_text("")
    hashes = FileHashes(tmp_path / "in_the_way" / "h.json")
    hashes.of(files)
    hashes.save()


def _replace_folder(place: Path, value: int) -> str:
    for name in ("a/1.png", "b/2.png"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(place / name, compress_level=0)
    return f"imagefolder:{place}"


def _replace_list(place: Path, value: int) -> str:
    _replace_folder(place, value)
    (place / "list.txt").write_text("a/1.png 0\nb/2.png 1\n")
    return f"list:{place / 'list.txt'}"


def _replace_npz(place: Path, value: int) -> str:
    place.mkdir(exist_ok=True)
    np.savez(place / "d.npz", images=np.full((2, 4, 4), value, np.uint8), labels=np.arange(2))
    return f"npz:{place / 'd.npz'}"


def _replace_idx(place: Path, value: int) -> str:
    place.mkdir(exist_ok=True)
    (place / "i").write_bytes(
        bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes([value] * 8)
    )
    (place / "l").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 1]))
    return f"idx:{place / 'i'},{place / 'l'}"


@pytest.mark.parametrize("write", [_replace_folder, _replace_list, _replace_npz, _replace_idx])
def test_images_replaced_in_place_are_another_set(tmp_path, write):
    spec = write(tmp_path / "d", 1)
    sizes = {file: file.stat().st_size for file in tmp_path.rglob("*")}
    before = open_dataset(spec, split="validation").fingerprint
    assert open_dataset(spec, split="validation").fingerprint == before
    write(tmp_path / "d", 2)
    assert {file: file.stat().st_size for file in tmp_path.rglob("*")} == sizes
    assert open_dataset(spec, split="validation").fingerprint != before
