"""A handover is whole: whatever fails at whatever step, the folder is the old or the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeres.errors import ArtefactError, StorageError
from edgeres.system import publish
from edgeres.system.publish import PLACE, finish_handover, handover, refuse_half_handover


def earlier(folder: Path) -> Path:
    """An output folder as a run leaves it, with what was made from it and a file of the user's."""
    files = ("onnx/model.onnx", "baseline/p.npz", "pruned/model.onnx", "report.json", "card.md")
    for name in (*files, "mine.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"old {name}")
    return folder


def hand_over(output: Path) -> None:
    with handover(output) as waiting:
        waiting.gone.append("pruned")
        waiting.gone.append("never there")
        waiting.aside["card.md"] = "superseded/1/card.md"
        waiting.last = "report.json"
        for name in ("onnx/model.onnx", "baseline/p.npz", "openvino/model.xml", "report.json"):
            (waiting.new / name).parent.mkdir(exist_ok=True)
            (waiting.new / name).write_text(f"new {name}")


def state(output: Path) -> dict[str, str]:
    return {
        str(file.relative_to(output)): file.read_text()
        for file in sorted(output.rglob("*"))
        if file.is_file()
    }


OLD = {
    name: f"old {name}"
    for name in (
        "baseline/p.npz", "card.md", "mine.txt", "onnx/model.onnx", "pruned/model.onnx",
        "report.json",
    )
}  # fmt: skip
NEW = {
    **{
        name: f"new {name}"
        for name in ("baseline/p.npz", "onnx/model.onnx", "openvino/model.xml", "report.json")
    },
    "mine.txt": "old mine.txt",
    "superseded/1/card.md": "old card.md",
}


def count_calls(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None], nth: int) -> list[int]:
    """Lets the nth call that changes the disk do something else; the list holds the count."""
    calls = [0]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] == nth:
                act()
            return real(*arguments, **options)

        return call

    monkeypatch.setattr(Path, "rename", counted(Path.rename))
    monkeypatch.setattr(Path, "mkdir", counted(Path.mkdir))
    monkeypatch.setattr(Path, "write_text", counted(Path.write_text))
    monkeypatch.setattr(publish, "sync", counted(publish.sync))
    monkeypatch.setattr(publish, "write_atomic", counted(publish.write_atomic))
    return calls


def test_everything_takes_its_place(tmp_path):
    hand_over(earlier(tmp_path))
    assert state(tmp_path) == NEW
    hand_over(tmp_path / "first")
    assert "superseded/1/card.md" not in state(tmp_path / "first")


def test_an_error_at_any_step_leaves_the_earlier_files(tmp_path, monkeypatch):
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    steps = 0
    while True:
        output = earlier(tmp_path / str(steps))
        with monkeypatch.context() as patched:
            calls = count_calls(patched, full, steps + 1)
            with contextlib.suppress(StorageError):
                hand_over(output)
            done = calls[0]
        if done <= steps:
            assert state(output) == NEW
            break
        if finish_handover(output):  # only the last sync failed, of what was in its place
            assert state(output) == NEW
            steps += 1
            continue
        assert state(output) == OLD, f"step {steps}"
        assert not (output / PLACE).exists()
        assert {path.name for path in output.iterdir()} == {
            "baseline", "card.md", "mine.txt", "onnx", "pruned", "report.json",
        }  # fmt: skip
        steps += 1
    assert steps > 20


def test_what_can_be_neither_done_nor_undone_is_done_later(tmp_path, monkeypatch):
    def gone() -> None:
        raise OSError(errno.EIO, "Input/output error", "x")

    output = earlier(tmp_path)
    real = Path.rename
    calls = 0

    def failing(source: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > 3:
            gone()
        return real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            hand_over(output)
    with pytest.raises(ArtefactError, match="edgeres clean"):
        refuse_half_handover(output)
    assert finish_handover(output)
    assert state(output) == NEW
    refuse_half_handover(output)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_step_the_next_run_ends_it(tmp_path, monkeypatch):
    outcomes = []
    for step in range(1, 100):
        output = earlier(tmp_path / str(step))
        child = os.fork()
        if child == 0:
            with monkeypatch.context() as patched:
                count_calls(patched, lambda: os.kill(os.getpid(), signal.SIGKILL), step)
                hand_over(output)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
        begun = (output / PLACE / "moves.json").is_file()
        assert finish_handover(output) == begun
        # Between the last rename and the journal's end everything is new already.
        assert state(output) in ([NEW] if begun else [OLD, NEW]), f"step {step}"
        assert not (output / PLACE).exists()
        outcomes.append(begun)
        if not killed:
            assert state(output) == NEW
            break
    assert outcomes.count(True) > 8
    assert outcomes.count(False) > 8


def die_at_rename(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process kill itself in place of its nth rename."""
    real = Path.rename
    renames = 0

    def dying(source: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(source, target)

    monkeypatch.setattr(Path, "rename", dying)


def test_a_second_kill_while_finishing_changes_nothing(tmp_path, monkeypatch):
    output = earlier(tmp_path)
    for step in (6, 2, 2):
        child = os.fork()
        if child == 0:
            die_at_rename(step, monkeypatch)
            if (output / PLACE / "moves.json").is_file():
                finish_handover(output)
            else:
                hand_over(output)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert finish_handover(output)
    assert state(output) == NEW


def test_an_interruption_leaves_the_earlier_files(tmp_path):
    output = earlier(tmp_path)

    def interrupted() -> None:
        with handover(output) as waiting:
            (waiting.new / "report.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert state(output) == OLD


def test_a_damaged_journal_is_told(tmp_path):
    output = earlier(tmp_path)
    (output / PLACE).mkdir()
    (output / PLACE / "moves.json").write_text("[1]")
    with pytest.raises(ArtefactError, match="journal"):
        finish_handover(output)
    assert state(output).items() > OLD.items()


def test_a_small_disk_keeps_the_earlier_files(mount):
    disk = mount("size=300k")
    output = earlier(disk / "out")

    def too_much() -> None:
        with handover(output) as waiting:
            (waiting.new / "report.json").write_text("new")
            (waiting.new / "engine").write_bytes(bytes(1_000_000))

    with pytest.raises(StorageError, match="no space left"):
        too_much()
    assert state(output) == OLD
