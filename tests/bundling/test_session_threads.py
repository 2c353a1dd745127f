"""A session that is closed, forked or copied while others use it: an error, never a wait."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import edgeres
from edgeres.errors import UsageError


@pytest.fixture
def session(bundle_file):
    with edgeres.Session(bundle_file, target="onnxruntime", self_test=False) as opened:
        yield opened


@pytest.fixture
def pixels(session):
    return np.zeros((1, *(size or 1 for size in session.input.shape[1:])), np.float32)


def outcome(work) -> str:
    try:
        work()
    except UsageError as error:
        return error.message
    return "done"


def test_who_waits_hears_that_it_was_closed(session, pixels, images, monkeypatch) -> None:
    runner, begun, go_on = session._runners[0], threading.Event(), threading.Event()
    infer = runner.infer

    def slow(feeds):
        begun.set()
        assert go_on.wait(60)
        return infer(feeds)

    monkeypatch.setattr(runner, "infer", slow)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(outcome, lambda: session.infer(pixels))
        assert begun.wait(60)
        works = [
            lambda: session.infer(pixels),
            lambda: session.classify(images[:9]),
            lambda: asyncio.run(session.infer_async(pixels)),
            lambda: asyncio.run(session.classify_async(images[:1])),
        ]
        waiting = [pool.submit(outcome, work) for work in works]
        time.sleep(0.3)
        closing = pool.submit(session.close)
        assert [one.result(60) for one in waiting] == ["the session is closed."] * len(works)
        assert not closing.done()  # it waits for who has an engine
        go_on.set()
        assert first.result(60) == "done"
        closing.result(60)
    session.close()


def test_a_stream_that_is_half_read_ends(session, images) -> None:
    stream = session.stream(images * 8)
    next(stream)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        list(stream)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_is_refused_and_does_not_hang(session, pixels, images) -> None:
    works = [
        lambda: session.infer(pixels),
        lambda: session.classify(images[:1]),
        lambda: asyncio.run(session.infer_async(pixels)),
    ]
    child = os.fork()
    if child == 0:
        told = [outcome(work) for work in works]
        session.close()
        os._exit(sum("forked" in one for one in told))
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == len(works)
    assert session.infer(pixels).shape[0] == 1  # here it goes on


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_is_not_copied(session, way) -> None:
    with pytest.raises(UsageError, match="cannot be pickled") as caught:
        way(session)
    assert "open it there" in caught.value.hint


@pytest.fixture(scope="module")
def program(load_program):
    return load_program(Path(__file__).parents[2] / "benchmarks" / "session_stress.py")


def test_threads_that_open_use_and_close(program, bundle_file, images) -> None:
    done = program.stress(bundle_file, images[:3], 3.0)
    assert done["opened"] >= program.SLOTS
    assert done["answered"] > 0


@pytest.mark.slow
def test_threads_that_open_use_and_close_for_a_minute(program, bundle_file, images) -> None:
    program.stress(bundle_file, images[:3], 5.0)
    before = program.open_files()
    done = program.stress(bundle_file, images[:3], 60.0)
    assert done["answered"] > 500
    assert done["told that it is closed"] > 0
    assert program.open_files() <= before + 8
