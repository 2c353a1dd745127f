"""Sidecars: an engine's path is enough to know it, and nothing damaged gets through."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from edgeres.backends.base import Engine
from edgeres.backends.sidecar import (
    check_engine,
    read_engine,
    sidecar_path,
    staged,
    write_sidecar,
)
from edgeres.errors import ArtefactError, StorageError


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    path = tmp_path / "net.xml"
    path.write_bytes(b"graph")
    path.with_suffix(".bin").write_bytes(b"weights")
    made = Engine(path, "openvino", "cpu", "f" * 64, {"openvino": "2026.4", "b": "2"})
    write_sidecar(made, companions=[path.with_suffix(".bin")])
    return made


def tamper(engine: Engine, **changes) -> None:
    path = sidecar_path(engine.path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(engine):
    assert read_engine(engine.path) == engine
    check_engine(engine, "openvino")


def test_record_has_the_hash_and_size_of_every_file(engine):
    record = json.loads(sidecar_path(engine.path).read_text())
    assert record["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        for name, data in (("net.xml", b"graph"), ("net.bin", b"weights"))
    }


def test_a_moved_folder_still_reads(engine, tmp_path):
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(elsewhere)
    assert read_engine(elsewhere / "net.xml").versions == engine.versions


@pytest.mark.parametrize("name", ["net.xml", "net.bin"])
@pytest.mark.parametrize(
    ("content", "message"), [(b"shorter", "bytes"), (None, "missing|no such"), ("flip", "SHA-256")]
)
def test_damaged_files_are_named(engine, name, content, message):
    path = engine.path.with_name(name)
    if content is None:
        path.unlink()
    else:
        good = path.read_bytes()
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:] if content == "flip" else content + good)
    with pytest.raises(ArtefactError, match=message) as caught:
        read_engine(engine.path)
    assert name in caught.value.message


@pytest.mark.parametrize("name", ["../escape", "/etc/hostname", ".", "", "sub/net.bin"])
def test_files_outside_the_folder_are_refused(engine, name):
    digest = {"sha256": "0" * 64, "size_bytes": 1}
    files = json.loads(sidecar_path(engine.path).read_text())["files"]
    tamper(engine, files=files | {name: digest})
    with pytest.raises(ArtefactError, match="plain file name"):
        read_engine(engine.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"files": []},
        {"files": {}},
        {"files": {"net.xml": {"sha256": "0"}}},
        {"versions": "new"},
    ],
)
def test_odd_records_are_refused(engine, changes):
    tamper(engine, **changes)
    with pytest.raises(ArtefactError, match=r"engine\.json"):
        read_engine(engine.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\udcff"])
def test_unreadable_records_are_refused(engine, text):
    sidecar_path(engine.path).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtefactError, match=r"engine\.json"):
        read_engine(engine.path)


def test_an_interrupted_build_is_no_engine(engine):
    sidecar_path(engine.path).unlink()
    with pytest.raises(ArtefactError, match="not a finished engine"):
        read_engine(engine.path)


def test_another_backends_engine_is_refused(engine):
    with pytest.raises(ArtefactError, match="expected an engine of onnxruntime, got one of open"):
        check_engine(engine, "onnxruntime")


def test_staged_files_appear_only_when_all_went_well(tmp_path):
    out = tmp_path / "deep" / "net.onnx"
    with staged(out) as folder:
        (folder / "net.onnx").write_text("new")
        (folder / "net.data").write_text("more")
        assert not out.exists()
    assert sorted(p.name for p in out.parent.iterdir()) == ["net.data", "net.onnx"]
    with suppress(KeyboardInterrupt), staged(out) as folder:
        (folder / "net.onnx").write_text("half")
        raise KeyboardInterrupt
    assert out.read_text() == "new"
    assert sorted(p.name for p in out.parent.iterdir()) == ["net.data", "net.onnx"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"), staged(tmp_path / "net.onnx"):
        pass


@pytest.mark.parametrize("out", ["file/net.onnx", "folder"])
def test_files_and_folders_in_the_way(tmp_path, out):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(StorageError, match="is in the way"), staged(tmp_path / out) as folder:
        (folder / Path(out).name).write_text("new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
