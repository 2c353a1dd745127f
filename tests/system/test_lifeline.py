"""What a parent that was killed leaves behind: no child, and no folder after the next run."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeres.system.lifeline import end_with_parent, limit_cpu_time
from edgeres.system.temporary import temporary_folder

TESTS = str(Path(__file__).parents[1])
PARENT = """
from edgeres.system.child import run_limited
import child_functions
run_limited(child_functions.{function}, seconds=600, memory_bytes=None)({file!r})
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def start(
    function: str, folder: Path, temporary: Path, until: Callable[..., None]
) -> tuple[subprocess.Popen[bytes], int]:
    """A parent whose child hangs, and the child's number."""
    file = folder / "pid"
    parent = subprocess.Popen(  # nohup makes its children ignore SIGHUP
        [sys.executable, "-c", PARENT.format(function=function, file=str(file))],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([TESTS, *sys.path]),
            "TMPDIR": str(temporary),
        },
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # noqa: PLW1509
    )

    def told() -> bool:
        assert parent.poll() is None
        return file.is_file() and bool(file.read_text())

    until(told)
    return parent, int(file.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems look for the parent in a thread")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_child_that_hangs_in_native_code_ends_with_its_parent(
    tmp_path: Path, until, number
) -> None:
    parent, child = start("hang_holding", tmp_path, tmp_path, until)
    assert alive(child)
    parent.send_signal(number)
    parent.wait(60)
    until(lambda: not alive(child))


def test_the_next_run_removes_the_folders_of_killed_ones_and_no_others(
    tmp_path: Path, monkeypatch, until
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    foreign = tmp_path / "edgeres-mine"
    foreign.mkdir()
    (tmp_path / "work").mkdir()
    parent, child = start("hang_in_folder", tmp_path / "work", tmp_path, until)
    (dead,) = tmp_path.glob("edgeres-*/files/big")
    with temporary_folder() as folder:
        assert dead.is_file()  # its run is alive
        parent.kill()
        parent.wait(60)
        until(lambda: not alive(child))
        with temporary_folder() as other:
            assert not dead.parent.parent.exists()
            assert folder.is_dir()
            assert other != folder
        assert folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edgeres-mine", "work"]


def test_a_folder_beside_a_file_is_its_own_kind(tmp_path: Path) -> None:
    names = [tmp_path / "a[1].onnx", tmp_path / "a1.onnx"]
    with temporary_folder(beside=names[0]) as first, temporary_folder(beside=names[1]) as second:
        assert first.is_dir()
        assert second.is_dir()
        assert first.parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_ends_at_once() -> None:
    child = os.fork()
    if child == 0:
        end_with_parent(os.getppid() + 1)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_cpu_time_has_a_limit() -> None:
    child = os.fork()
    if child == 0:
        limit_cpu_time(10.0)
        soft, _ = resource.getrlimit(resource.RLIMIT_CPU)
        os._exit(0 if soft == 10 * (os.cpu_count() or 1) + 60 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
