"""The steady child: its memory lies alike each time, and it ends with its parent."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeres.errors import ModelError, StageError
from edgeres.system.child import JsonValue
from edgeres.system.steady_child import run_steady

Until = Callable[[Callable[[], object]], None]
TESTS = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def _functions_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, TESTS])


def call(
    name: str,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    seconds: float = 600,
) -> JsonValue:
    function = getattr(importlib.import_module("child_functions"), name)
    return run_steady(
        function, folder=folder, what="the build", progress=progress, seconds=seconds
    )()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_steps_and_result_come_back(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = call("steps", tmp_path, lambda done, known: told.append((done, known)))
    assert result == str(tmp_path.resolve())
    assert told == [(1, 2), (2, 2)]


def test_own_errors_keep_class_message_and_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        call("steady_refuse", tmp_path)
    assert (caught.value.message, caught.value.hint) == (
        "tensor 'w' is damaged.",
        "Export it again.",
    )


def test_a_crash_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"the build crashed .* SIGSEGV \(about to read") as caught:
        call("steady_crash", tmp_path)
    assert "\n" not in str(caught.value)


def test_memory_lies_as_in_every_other_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = call("addresses", tmp_path)
    assert isinstance(first, list)
    if not first[0]:
        pytest.skip("this system does not let a process turn address randomization off")
    elsewhere = tmp_path / ("x" * 100)
    elsewhere.mkdir()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    monkeypatch.setenv("PYTHONMALLOC", "malloc")  # every small object from where we look
    limits = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, limits[1]))
    try:
        for length in (1, 1000):
            monkeypatch.setenv("ANY", "y" * length)
            monkeypatch.setattr(sys, "path", [*sys.path, *map(str, range(length))])
            assert call("addresses", elsewhere) == first
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, limits)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_child(
    tmp_path: Path, until: Until, interrupt: type[BaseException]
) -> None:
    pids = []

    def stop(pid: int, known: int) -> None:
        pids.append(pid)
        raise interrupt

    with pytest.raises(interrupt):
        call("hang", tmp_path, stop)
    until(lambda: not alive(pids[0]))


def test_a_time_limit_holds(tmp_path: Path, until: Until) -> None:
    pids = []
    with pytest.raises(StageError, match="the build did not end within its limit of 1 s"):
        call("spin", tmp_path, lambda pid, _: pids.append(pid), seconds=1)
    until(lambda: not alive(pids[0]))


@pytest.mark.parametrize("function", ["hang", "spin"])
def test_the_child_ends_with_a_killed_parent(tmp_path: Path, until: Until, function: str) -> None:
    program = (
        "from pathlib import Path; from edgeres.system.steady_child import run_steady; "
        f"from child_functions import {function}; run_steady({function}, folder=Path(), what='it', "
        "progress=lambda pid, _: print(pid, flush=True))()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=tmp_path, env=environment
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.send_signal(signal.SIGKILL)
    until(lambda: not alive(child))
