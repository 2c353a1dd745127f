"""Checks before a plan is deserialized, and the runner, on stand-ins for TensorRT and CUDA."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.sidecar import read_engine
from edgeres.errors import (
    ArtefactError,
    BackendMissingError,
    DataError,
    EdgeResError,
    StageError,
    UsageError,
)

BACKEND = get_backend("tensorrt")
CUDA = BuildConfig("cuda:0")
Install = Callable[[str], Any]


@pytest.fixture
def built(qdq_file: Path) -> Callable[..., Engine]:
    def build(**options: str) -> Engine:
        config = BuildConfig("cuda:0", options=options)
        return BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)

    return build


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
            r"takes shapes \(1, 1, 4, 4\) to \(4, 1, 4, 4\), got \(5, 1, 4, 4\)",
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
    monkeypatch.setattr("edgeres.backends._tensorrt_lane.GRAPH_BATCH", 2)
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


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("cuMemAlloc_v2", 2, r"out of memory \(cuMemAlloc_v2\).*smaller batch"),
        ("cuStreamCreate", 999, "cuStreamCreate failed: error 999, a reason"),
        ("cuDevicePrimaryCtxRetain", 101, "cuDevicePrimaryCtxRetain failed: error 101"),
    ],
)
def test_cuda_errors_while_loading_are_one_line_and_free_everything(
    install: Install,
    driver: Any,
    built: Callable[..., Engine],
    function: str,
    code: int,
    message: str,
) -> None:
    install("10")
    engine = built()
    driver.fails[function] = code
    with pytest.raises(StageError, match=message):
        BACKEND.load(engine, CUDA)


def test_a_cuda_error_while_running_is_one_line(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    with BACKEND.load(built(), CUDA) as runner:
        driver.fails["cuStreamSynchronize"] = 700
        with pytest.raises(StageError, match="cuStreamSynchronize failed: error 700"):
            runner.infer({"input": images(1)})


def test_no_driver_is_one_line(
    install: Install, built: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install("rtx")
    engine = built()
    monkeypatch.setattr("edgeres.backends._tensorrt_cuda.LIBRARY", "libnothing.so.1")
    with pytest.raises(BackendMissingError, match="no NVIDIA driver here: libnothing") as caught:
        BACKEND.load(engine, CUDA)
    assert caught.value.hint
    assert trt.deserialized == 0
    # The layers are known all the same, from the build.
    assert [layer.precision for layer in BACKEND.layers(engine)] == ["int8"]


def test_a_driver_that_does_not_start_is_one_line(install: Install, driver: Any) -> None:
    install("rtx")
    driver.fails["cuInit"] = 100
    assert "does not start: error 100, a reason" in str(BACKEND.not_executable())


def flip_a_bit(engine: Engine) -> None:
    data = bytearray(engine.path.read_bytes())
    data[0] ^= 1
    engine.path.write_bytes(data)


def cut_short(engine: Engine) -> None:
    engine.path.write_bytes(engine.path.read_bytes()[:-1])


def lose_the_sidecar(engine: Engine) -> None:
    engine.path.with_name("net.plan.engine.json").unlink()


def lose_the_layers(engine: Engine) -> None:
    engine.path.with_name("net.plan.layers.json").unlink()


def _edit(engine: Engine, **changes: Any) -> None:
    sidecar = engine.path.with_name("net.plan.engine.json")
    record = json.loads(sidecar.read_text())
    for key, value in changes.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    sidecar.write_text(json.dumps(record))


def another_version(engine: Engine) -> None:
    _edit(engine, versions={"tensorrt": "10.3.0"})


def another_gpu(engine: Engine) -> None:
    _edit(engine, versions={"gpu": "NVIDIA Orin", "compute_capabilities": "8.7"})


def same_generation_other_gpu(engine: Engine) -> None:
    _edit(engine, versions={"gpu": "NVIDIA RTX A2000"})


def no_flavor(engine: Engine) -> None:
    _edit(engine, versions={"flavor": "tensorflow"})


def another_backend(engine: Engine) -> None:
    _edit(engine, backend="openvino")


def another_flavor(engine: Engine) -> None:
    _edit(engine, versions={"flavor": "tensorrt_rtx", "tensorrt_rtx": "1.7.1.116"})


@pytest.mark.parametrize(
    ("tamper", "error", "message"),
    [
        (flip_a_bit, ArtefactError, r"net\.plan"),
        (cut_short, ArtefactError, r"net\.plan"),
        (lose_the_sidecar, ArtefactError, r"net\.plan"),
        (lose_the_layers, ArtefactError, r"net\.plan\.layers\.json"),
        (another_version, ArtefactError, r"built by TensorRT 10\.3\.0, here is 10\.13\.3\.9"),
        (another_gpu, BackendMissingError, r"built for NVIDIA Orin, this GPU is NVIDIA Stand-In"),
        (same_generation_other_gpu, BackendMissingError, "built for NVIDIA RTX A2000"),
        (no_flavor, ArtefactError, "names no TensorRT flavor"),
        (another_backend, ArtefactError, "openvino"),
        (another_flavor, BackendMissingError, "TensorRT for RTX is not installed"),
    ],
)
def test_a_plan_that_is_not_ours_is_never_deserialized(
    install: Install,
    built: Callable[..., Engine],
    tamper: Callable[[Engine], None],
    error: type[EdgeResError],
    message: str,
) -> None:
    trt = install("10")
    engine = built()
    tamper(engine)
    with pytest.raises(error, match=message) as caught:
        BACKEND.load(engine, CUDA)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert trt.deserialized == 0


def test_the_sidecar_counts_not_the_object(install: Install, built: Callable[..., Engine]) -> None:
    trt = install("10")
    engine = built()
    another_version(engine)
    lie = replace(engine, versions={**engine.versions, "tensorrt": trt.version})
    with pytest.raises(ArtefactError, match="built by"):
        BACKEND.load(lie, CUDA)
    assert trt.deserialized == 0


def test_hardware_compatible_plans_run_on_newer_gpus(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    engine = built(hardware_compatibility="ampere_plus")
    driver.gpu, driver.capability = "NVIDIA H100", (9, 0)
    BACKEND.load(engine, CUDA).close()
    driver.gpu, driver.capability = "NVIDIA T4", (7, 5)
    with pytest.raises(BackendMissingError, match=r"this GPU is NVIDIA T4 \(7\.5\)"):
        BACKEND.load(engine, CUDA)


def test_plans_of_tensorrt_for_rtx_run_on_every_target(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("rtx")
    engine = built()
    driver.gpu, driver.capability = "NVIDIA GeForce RTX 5090", (12, 0)
    BACKEND.load(engine, CUDA).close()
    driver.gpu, driver.capability = "NVIDIA H100", (9, 0)
    before = trt.deserialized
    with pytest.raises(BackendMissingError, match=r"compute capability 8\.0.*NVIDIA H100 \(9\.0"):
        BACKEND.load(engine, CUDA)
    assert trt.deserialized == before


def test_what_tensorrt_says_about_a_plan_is_one_line(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    trt.loads_plan = False
    with pytest.raises(StageError, match="cannot load the plan: wrong GPU"):
        BACKEND.load(engine, CUDA)
    trt = install("rtx")
    engine = built()
    trt.valid = False
    with pytest.raises(StageError, match="says the plan cannot run on this GPU"):
        BACKEND.load(engine, CUDA)
    assert trt.deserialized == 0


def test_on_a_gpu_the_layers_come_from_the_inspector(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    assert trt.deserialized == 0
    (layer,) = BACKEND.layers(read_engine(engine.path))
    assert trt.deserialized == 1
    assert (layer.name, layer.precision, layer.nodes) == ("conv + relu", "int8", ("conv",))
