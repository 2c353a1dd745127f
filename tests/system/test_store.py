"""Stages are found again by content, made whole or not at all, and never lost."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.errors import StorageError
from edgeres.system.files import disk_errors, write_atomic
from edgeres.system.store import (
    MANIFEST,
    DamagedResultWarning,
    StaleLockWarning,
    Store,
    content_key,
    output_lock,
)


def _produce(text: str):
    def produce(folder: Path, work: Path) -> None:
        (folder / "value.txt").write_text(text)

    return produce


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()]


def _never(folder: Path, work: Path) -> None:
    raise AssertionError("the stage ran although its result is stored")


def test_equal_work_is_found_again(tmp_path):
    store = Store(tmp_path)
    first = store.stage("s", inputs={"a": "1"}, settings={"x": 1}, produce=_produce("one"))
    again = store.stage("s", inputs={"a": "1"}, settings={"x": 1}, produce=_never)
    assert not first.cached
    assert again.cached
    assert again.file("value.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("name", "inputs", "settings"),
    [("t", {"a": "1"}, {"x": 1}), ("s", {"a": "2"}, {"x": 1}), ("s", {"a": "1"}, {"x": 2})],
)
def test_changed_work_is_done(tmp_path, name, inputs, settings):
    store = Store(tmp_path)
    store.stage("s", inputs={"a": "1"}, settings={"x": 1}, produce=_produce("one"))
    other = store.stage(name, inputs=inputs, settings=settings, produce=_produce("two"))
    assert not other.cached
    assert other.file("value.txt").read_text() == "two"


def test_no_cache_works_again_and_replaces(tmp_path):
    Store(tmp_path).stage("s", inputs={}, settings={}, produce=_produce("old"))
    result = Store(tmp_path, use_cache=False).stage(
        "s", inputs={}, settings={}, produce=_produce("new")
    )
    assert result.file("value.txt").read_text() == "new"
    assert _folders(tmp_path) == [result.path]


def test_shipped_result_is_used_and_not_written(tmp_path):
    shipped = tmp_path / "shipped"
    Store(shipped).stage("s", inputs={}, settings={}, produce=_produce("ready"))
    before = sorted(shipped.rglob("*"))
    result = Store(tmp_path / "own", shipped=shipped).stage(
        "s", inputs={}, settings={}, produce=_never
    )
    assert result.cached
    assert result.path.is_relative_to(shipped)
    assert sorted(shipped.rglob("*")) == before


@pytest.mark.parametrize("damage", ["content", "manifest", "missing file", "missing manifest"])
def test_damaged_result_is_made_again_with_a_warning(tmp_path, damage):
    store = Store(tmp_path)
    first = store.stage("s", inputs={}, settings={}, produce=_produce("one"))
    if damage == "content":
        first.file("value.txt").write_text("0ne")
    elif damage == "manifest":
        first.file(MANIFEST).write_text('{"key": 1}')
    elif damage == "missing file":
        first.file("value.txt").unlink()
    else:
        first.file(MANIFEST).unlink()
    with pytest.warns(DamagedResultWarning):
        again = store.stage("s", inputs={}, settings={}, produce=_produce("one"))
    assert not again.cached
    assert again.file("value.txt").read_text() == "one"


def test_failed_stage_leaves_the_earlier_result(tmp_path):
    store = Store(tmp_path, use_cache=False)
    first = store.stage("s", inputs={}, settings={}, produce=_produce("good"))

    def broken(folder: Path, work: Path) -> None:
        (folder / "value.txt").write_text("half")
        raise RuntimeError("stage broke")

    with pytest.raises(RuntimeError, match="stage broke"):
        store.stage("s", inputs={}, settings={}, produce=broken)
    assert first.file("value.txt").read_text() == "good"
    assert _folders(tmp_path) == [first.path]


def test_killed_stage_leaves_no_result(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from edgeres.system.store import Store\n"
        "def produce(folder, work):\n"
        "    (folder / 'value.txt').write_text('half'); print('go', flush=True); time.sleep(60)\n"
        f"Store(Path({str(tmp_path)!r})).stage('s', inputs={{}}, settings={{}}, produce=produce)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    (tmp_path / ".file_hashes.json-dead").write_text("half")
    store = Store(tmp_path)
    store.begin()
    assert list(tmp_path.iterdir()) == []
    assert not store.stage("s", inputs={}, settings={}, produce=_produce("whole")).cached


def test_a_folder_moved_aside_by_a_killed_run_comes_back(tmp_path):
    store = Store(tmp_path)
    first = store.stage("s", inputs={}, settings={}, produce=_produce("one"))
    first.path.rename(tmp_path / f".{first.path.name}-replaced")
    store.begin()
    assert store.stage("s", inputs={}, settings={}, produce=_never).cached


def test_second_run_in_a_folder_is_told_who_holds_it(tmp_path):
    code = (
        "import time; from pathlib import Path; from edgeres.system.store import output_lock\n"
        f"with output_lock(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StorageError, match=f"process {process.pid}"), output_lock(tmp_path):
            pass
        process.kill()
        process.wait()
    with pytest.warns(StaleLockWarning, match=f"process {process.pid}"), output_lock(tmp_path):
        pass
    with output_lock(tmp_path):
        pass  # given back: no warning is raised as an error here


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be written"), output_lock(tmp_path / "run"):
        pass


def test_full_disk_names_place_and_free_bytes(tmp_path):
    with (
        pytest.raises(StorageError, match=r"no space left for .*bytes free"),
        disk_errors(tmp_path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "big"))


def test_full_device_is_a_storage_error():
    with pytest.raises(StorageError), disk_errors(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x" * 100_000)


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for out, place in (("file/net.onnx", "file"), ("folder", "folder")):
        with pytest.raises(StorageError, match=f"/{place} is in the way") as caught:
            write_atomic(tmp_path / out, b"")
        assert caught.value.exit_code == 6
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_write_atomic_replaces_whole_files(tmp_path):
    target = tmp_path / "f"
    write_atomic(target, b"one")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.none()))
def test_key_depends_on_content_and_not_on_order(settings):
    reordered = dict(reversed(list(settings.items())))
    assert content_key("s", {}, settings) == content_key("s", {}, reordered)
    assert content_key("s", {}, {**settings, "extra": 0}) != content_key(
        "s", {}, {**settings, "extra": 1}
    )


def test_long_work_goes_on_where_it_was(tmp_path):
    store = Store(tmp_path)

    def produce(folder: Path, work: Path) -> None:
        if not work.exists():
            work.mkdir()
            (work / "state").write_text("half way")
            raise KeyboardInterrupt
        (folder / "value.txt").write_text((work / "state").read_text())

    with pytest.raises(KeyboardInterrupt):
        store.stage("s", inputs={}, settings={}, produce=produce)
    store.begin()
    result = store.stage("s", inputs={}, settings={}, produce=produce)
    assert result.file("value.txt").read_text() == "half way"
    assert _folders(tmp_path) == [result.path]


def test_manifest_says_what_it_came_from(tmp_path):
    result = Store(tmp_path).stage("s", inputs={"a": "1"}, settings={"x": 2}, produce=_produce("v"))
    manifest = json.loads(result.file(MANIFEST).read_text())
    assert manifest["inputs"] == {"a": "1"}
    assert manifest["settings"] == {"x": 2}
    assert list(manifest["files"]) == ["value.txt"]


def test_a_full_place_for_temporary_files_is_named(tmp_path, monkeypatch, mount):
    from edgeres.system.temporary import temporary_folder

    disk = mount("size=64k")
    monkeypatch.setattr("tempfile.tempdir", str(disk))

    def fill() -> None:
        with (
            disk_errors(tmp_path / "out" / "engine.onnx"),
            temporary_folder() as folder,
            (folder / "big").open("wb", buffering=0) as stream,
        ):
            for _ in range(100):
                stream.write(bytes(4096))  # the system's error names no file

    with pytest.raises(StorageError, match=rf"temporary files in {disk} \(\d+ bytes") as caught:
        fill()
    assert "TMPDIR" in caught.value.hint
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize(
    "junk",
    [b"\xff\x00\x1b[2J" * 9999, b"", b"process 7\x1b[2J\nx" * 50],
    ids=["binary", "empty", "lines"],  # pytest hands a test's name to its children
)
def test_a_holder_file_with_junk_is_no_crash(tmp_path, junk):
    (tmp_path / ".edgeres.holder").write_bytes(junk)
    with pytest.warns(StaleLockWarning) as told, output_lock(tmp_path):
        pass
    assert len(str(told[0].message)) < 300
    code = (
        "import sys; from pathlib import Path; from edgeres.system.store import output_lock\n"
        f"with output_lock(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        (tmp_path / ".edgeres.holder").write_bytes(junk)
        with pytest.raises(StorageError, match="in use by"), output_lock(tmp_path):
            pass
        holder.kill()


@pytest.mark.parametrize("name", [".edgeres.lock", ".edgeres.holder"])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "fifo"])
def test_a_lock_that_is_no_file_of_ours_is_refused(tmp_path, name, kind):
    target = tmp_path / "elsewhere"
    folder = tmp_path / "out"
    folder.mkdir()
    if kind == "link":
        target.write_text("kept")
        (folder / name).symlink_to(target)
    elif kind == "dangling":
        (folder / name).symlink_to(target)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        os.mkfifo(folder / name)
    with pytest.raises(StorageError, match="locks nothing"), output_lock(folder):
        pass
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "kept"
