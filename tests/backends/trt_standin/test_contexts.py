"""What the caller's thread and process keep: CUDA contexts, the logger, runs under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.sidecar import read_engine
from edgeres.errors import StageError, UsageError

from .conftest import BACKEND, CUDA

Install = Callable[[str], Any]
FEED = {"input": np.ones((1, 1, 4, 4), np.float32)}


@pytest.mark.parametrize("version", ["10", "rtx"])
def test_the_callers_context_is_current_afterwards(
    install: Install, driver: Any, built: Callable[..., Engine], version: str
) -> None:
    install(version)
    driver.count = 2
    engine = built()
    with driver.working_on(1):
        before = list(driver.stack)
        runner = BACKEND.load(engine, CUDA)
        assert driver.stack == before
        runner.infer(FEED)
        assert driver.stack == before
        BACKEND.layers(engine)
        assert driver.stack == before
        driver.fails["cuStreamSynchronize"] = 700
        with pytest.raises(StageError):
            runner.infer(FEED)
        driver.fails.clear()
        assert driver.stack == before
        runner.close()
        assert driver.stack == before
        assert driver.device == 1


def test_a_load_that_fails_leaves_nothing_current(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    trt.loads_plan = False
    with pytest.raises(StageError, match="wrong GPU"):
        BACKEND.load(engine, CUDA)
    assert driver.stack == []


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_tensorrt_builds_on_the_gpu_that_was_asked_for(
    install: Install, driver: Any, qdq_file: Any, device: str
) -> None:
    trt = install("10")
    driver.count = 2
    engine = BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), BuildConfig(device))
    assert f"cuda:{trt.built_on}" == engine.device == device


def test_tensorrt_for_rtx_builds_without_a_context(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("rtx")
    built()
    assert trt.built_on is None


def test_one_logger_serves_the_whole_process(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    with BACKEND.load(engine, CUDA), BACKEND.load(engine, CUDA) as second:
        BACKEND.layers(engine)
        trt.says = "no such kernel In run at engine.cpp:1"
        with pytest.raises(StageError, match="could not run: no such kernel"):
            second.infer(FEED)
    assert trt.complaints == []


def test_an_earlier_error_is_not_told_again(install: Install, built: Callable[..., Engine]) -> None:
    trt = install("10")
    with BACKEND.load(built(), CUDA) as runner:
        for text in ("the first", "the second"):
            trt.says = text
            with pytest.raises(StageError, match=f"could not run: {text}"):
                runner.infer(FEED)


def test_an_error_keeps_nothing_alive(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    runner = BACKEND.load(built(), CUDA)
    trt.says = "no such kernel"
    with pytest.raises(StageError) as kept:
        runner.infer(FEED)
    runner.close()
    assert driver.alive() == [], "the traceback keeps what was closed"
    assert trt.complaints == []
    assert "no such kernel" in str(kept.value)


def test_the_inspector_goes_before_the_engine_and_the_context(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    assert BACKEND.layers(read_engine(engine.path))
    assert trt.complaints == []


def test_close_waits_for_a_run_that_is_under_way(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    runner = BACKEND.load(built(contexts="2"), CUDA)
    started, go_on = threading.Event(), threading.Event()
    answers: list[Any] = []

    def wait() -> None:
        started.set()
        assert go_on.wait(30)

    trt.before_run = wait
    running = threading.Thread(target=lambda: answers.append(runner.infer(FEED)))
    running.start()
    assert started.wait(30)
    closing = threading.Thread(target=runner.close)
    closing.start()
    closing.join(0.2)
    assert closing.is_alive(), "it closed what another thread runs"
    go_on.set()
    closing.join(30)
    running.join(30)
    assert answers[0]["logits"].tolist() == [[16.0, 1.0]]


def test_who_waits_for_a_lane_of_a_closed_engine_is_told(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    runner = BACKEND.load(built(), CUDA)
    started, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def wait() -> None:
        started.set()
        assert go_on.wait(30)

    def late() -> None:
        try:
            runner.infer(FEED)
        except UsageError as error:
            told.append(str(error))

    trt.before_run = wait
    running = threading.Thread(target=runner.infer, args=(FEED,))
    running.start()
    assert started.wait(30)
    waiting = threading.Thread(target=late)
    waiting.start()
    closing = threading.Thread(target=runner.close)
    closing.start()
    waiting.join(30)
    go_on.set()
    for thread in (running, closing):
        thread.join(30)
    assert "closed" in told[0]


def test_an_output_whose_size_depends_on_the_data_is_refused(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    trt.output_is_open = True
    with pytest.raises(StageError, match=r"size of output 'logits' depends on the data \(-1, 2\)"):
        BACKEND.load(engine, CUDA)


def test_each_thread_has_the_time_of_its_own_run(
    install: Install, built: Callable[..., Engine]
) -> None:
    install("10")
    with BACKEND.load(built(), CUDA) as runner:
        runner.infer(FEED)
        mine, others = runner.device_ms, []
        thread = threading.Thread(target=lambda: others.append(runner.device_ms))
        thread.start()
        thread.join(30)
    assert mine > 0
    assert others == [0.0], "a thread that ran nothing has another one's time"
