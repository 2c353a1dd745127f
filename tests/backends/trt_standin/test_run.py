"""The runner on stand-ins for TensorRT and CUDA: feeds, buffers, CUDA graphs and contexts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig, Engine
from edgeres.errors import DataError, StageError, UsageError

from .conftest import BACKEND, CUDA

Install = Callable[[str], Any]


def images(batch: int) -> np.ndarray:
    return np.random.default_rng(0).random((batch, 1, 4, 4), np.float32)


def expected(batch: np.ndarray) -> np.ndarray:
    flat = batch.reshape(len(batch), 16)
    return np.stack([flat.sum(1), flat.max(1)], 1)


@pytest.mark.parametrize("version", ["8.6", "10", "11", "rtx"])
def test_runs_with_every_version(
    install: Install, built: Callable[..., Engine], version: str
) -> None:
    install(version)
    with BACKEND.load(built(), CUDA) as runner:
        assert [(spec.name, spec.shape, spec.dtype) for spec in runner.inputs] == [
            ("input", (None, 1, 4, 4), "float32")
        ]
        assert [(spec.name, spec.shape) for spec in runner.outputs] == [("logits", (None, 2))]
        for batch in (1, 3, 4, 2):
            feed = images(batch)
            logits = runner.infer({"input": feed})["logits"]
            np.testing.assert_allclose(logits, expected(feed), rtol=1e-6)
        assert runner.device_ms > 0


def test_feeds_need_not_be_contiguous(install: Install, built: Callable[..., Engine]) -> None:
    install("10")
    feed = images(4)[::2]
    with BACKEND.load(built(), CUDA) as runner:
        logits = runner.infer({"input": feed})["logits"]
    np.testing.assert_allclose(logits, expected(feed), rtol=1e-6)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input is missing"),
        (
            {"input": images(5)},
            r"takes input of shapes \(1, 1, 4, 4\) to \(4, 1, 4, 4\), got \(5, 1, 4, 4\)",
        ),
        ({"input": images(1).astype(np.float64)}, "expected an array of float32"),
        ({"input": images(1), "more": images(1)}, "no input more"),
    ],
)
def test_wrong_feeds_are_refused(
    install: Install, built: Callable[..., Engine], feeds: dict[str, Any], message: str
) -> None:
    install("10")
    with BACKEND.load(built(), CUDA) as runner, pytest.raises(DataError, match=message):
        runner.infer(feeds)


def test_a_closed_runner_says_so(install: Install, built: Callable[..., Engine]) -> None:
    install("10")
    runner = BACKEND.load(built(), CUDA)
    runner.close()
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.infer({"input": images(1)})


def test_two_runners_do_not_share_buffers(install: Install, built: Callable[..., Engine]) -> None:
    install("rtx")
    engine = built()
    feeds = images(2), images(2) + 1
    with BACKEND.load(engine, CUDA) as first, BACKEND.load(engine, CUDA) as second:
        for _ in range(2):
            a = first.infer({"input": feeds[0]})["logits"]
            b = second.infer({"input": feeds[1]})["logits"]
            np.testing.assert_allclose(a, expected(feeds[0]), rtol=1e-6)
            np.testing.assert_allclose(b, expected(feeds[1]), rtol=1e-6)
        first.close()
        b = second.infer({"input": feeds[0]})["logits"]
    np.testing.assert_allclose(b, expected(feeds[0]), rtol=1e-6)


def test_cuda_graphs_are_recorded_once_for_each_shape(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    config = BuildConfig("cuda:0", options={"cuda_graph": "true"})
    with BACKEND.load(built(), config) as runner:
        for batch in (1, 2, 1, 2, 1):
            feed = images(batch)
            logits = runner.infer({"input": feed})["logits"]
            np.testing.assert_allclose(logits, expected(feed), rtol=1e-6)
    assert driver.launches == 5
    assert sum(kind == "executable graph" for kind in driver.made) == 2


def test_large_batches_are_not_recorded(
    install: Install,
    driver: Any,
    built: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("11")
    monkeypatch.setattr("edgeres.backends.tensorrt.context.GRAPH_BATCH", 2)
    # Said in the build, the option holds wherever the engine is loaded.
    with BACKEND.load(built(cuda_graph="true"), CUDA) as runner:
        for batch in (1, 3, 2, 4, 1):
            feed = images(batch)
            logits = runner.infer({"input": feed})["logits"]
            np.testing.assert_allclose(logits, expected(feed), rtol=1e-6)
    assert driver.launches == 3


@pytest.mark.parametrize("version", ["8.6", "10", "11", "rtx"])
def test_several_contexts_run_at_the_same_time(
    install: Install, driver: Any, built: Callable[..., Engine], version: str
) -> None:
    trt = install(version)
    engine = built(contexts="3")
    assert ("PROFILE_SHARING_0806" in trt.previews) == (version in {"8.6", "10"})
    feeds = [images(1 + index % 4) + index for index in range(24)]
    with BACKEND.load(engine, CUDA) as runner, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda feed: runner.infer({"input": feed})["logits"], feeds))
    for feed, answer in zip(feeds, answers, strict=True):
        np.testing.assert_allclose(answer, expected(feed), rtol=1e-6)
    assert trt.deserialized == 1
    assert trt.contexts == 3


def test_a_context_that_fails_is_free_again(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    with BACKEND.load(built(), CUDA) as runner:
        driver.fails["cuStreamSynchronize"] = 700
        with pytest.raises(StageError):
            runner.infer({"input": images(1)})
        driver.fails.clear()
        assert runner.infer({"input": images(1)})["logits"].shape == (1, 2)


def test_a_plain_cache_name_is_a_file_beside_the_plan(
    install: Install, built: Callable[..., Engine]
) -> None:
    install("rtx")
    engine = built(runtime_cache="kernels.bin")
    assert engine.options == {"runtime_cache": "kernels.bin"}
    with BACKEND.load(engine, CUDA) as runner:
        runner.infer({"input": images(1)})
    assert engine.path.with_name("kernels.bin").read_bytes() == b"compiled kernels"


def test_tensorrt_for_rtx_replays_and_caches_kernels_itself(
    install: Install, built: Callable[..., Engine], tmp_path: Path
) -> None:
    trt = install("rtx")
    cache = tmp_path / "kernels.bin"
    options = {"cuda_graph": "true", "runtime_cache": str(cache)}
    config = BuildConfig("cuda:0", options=options)
    engine = built()
    with BACKEND.load(engine, config) as runner:
        runner.infer({"input": images(1)})
    assert trt.runtime_config.set_values["cuda_graph_strategy"].name == "WHOLE_GRAPH_CAPTURE"
    assert cache.read_bytes() == b"compiled kernels"
    assert trt.kernels == []
    BACKEND.load(engine, config).close()
    assert trt.kernels == [b"compiled kernels"]


def test_a_cuda_error_while_running_is_one_line(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    with BACKEND.load(built(), CUDA) as runner:
        driver.fails["cuStreamSynchronize"] = 700
        with pytest.raises(StageError, match="cuStreamSynchronize failed: error 700"):
            runner.infer({"input": images(1)})
