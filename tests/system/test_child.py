"""The child process: results and errors come back, limits hold, the parent always reports."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import pytest

from edgeres.errors import ModelError, StageError
from edgeres.system import child
from edgeres.system.child import JsonValue, run_limited

GIB = 2**30


@pytest.fixture(autouse=True)
def _functions_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[1])])


def call(name: str, *, seconds: float = 60, memory: int | None = GIB, **kw: JsonValue) -> JsonValue:
    function = getattr(importlib.import_module("child_functions"), name)
    return run_limited(function, seconds=seconds, memory_bytes=memory)(**kw)


def test_result_comes_back_and_prints_do_not_mix_in() -> None:
    assert call("add", first=2, second=40) == 42


def test_own_errors_keep_class_message_and_hint() -> None:
    with pytest.raises(ModelError) as caught:
        call("refuse")
    assert caught.value.message == "tensor 'w' is damaged."
    assert caught.value.hint == "Export it again."


def test_other_exceptions_become_stage_errors() -> None:
    with pytest.raises(StageError, match="KeyError: 'no such thing'"):
        call("stumble")


def test_memory_limit_holds() -> None:
    with pytest.raises(StageError, match=r"needs more memory than its limit of 1 GiB"):
        call("allocate", size=3 * GIB)
    assert call("allocate", size=3 * GIB, memory=None) == 3 * GIB


def test_time_limit_holds() -> None:
    start = time.monotonic()
    with pytest.raises(StageError, match="did not end within its limit of 1 s"):
        call("rest", for_s=600, seconds=1, memory=None)
    assert time.monotonic() - start < 100


def test_where_the_system_bounds_no_memory_the_parent_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(child, "_BOUNDS_MEMORY", False)
    start = time.monotonic()
    with pytest.raises(StageError, match=r"hoard needs more memory than its limit of 0.25 GiB"):
        call("hoard", size=GIB, memory=GIB // 4)
    assert time.monotonic() - start < 50
    assert call("add", first=2, second=40) == 42


def test_a_call_that_cannot_be_made_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    function = importlib.import_module("child_functions").add
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p).name != "tests"])
    with pytest.raises(StageError, match="ModuleNotFoundError: No module named 'child_functions'"):
        run_limited(function, seconds=60, memory_bytes=None)(1, 2)


def test_crash_is_reported_with_signal_and_last_line() -> None:
    with pytest.raises(StageError, match=r"killed by SIGSEGV \(about to read address 0\)"):
        call("crash", memory=None)


@pytest.mark.parametrize("code", [0, 3])
def test_silent_end_is_reported(code: int) -> None:
    with pytest.raises(StageError, match=f"crashed in its child process: exit code {code}"):
        call("leave", code=code)
