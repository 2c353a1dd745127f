"""On a GPU: plans run, their answers are ONNX Runtime's, and the inspector agrees with the log.

``pytest -m gpu tests/backends/trt`` on any machine with TensorRT, an NVIDIA GPU and its driver.
These have not run yet.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine

pytestmark = pytest.mark.gpu
BACKEND = get_backend("tensorrt")
CUDA = BuildConfig("cuda:0")


@pytest.fixture(autouse=True)
def _a_gpu() -> None:
    reason = BACKEND.missing() or BACKEND.not_executable()
    if reason is not None:
        pytest.skip(reason)


def build(net: Any, folder: Path, **options: str) -> Engine:
    onnx.save(net.model(), folder / "net.onnx")
    config = BuildConfig("cuda:0", options=options)
    return BACKEND.build(folder / "net.onnx", folder / "net.plan", config)


def reference(net: Any, feed: np.ndarray) -> np.ndarray:
    """The graph as it is written, on the CPU, with no optimization."""
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        net.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    logits: np.ndarray = session.run(["logits"], {"input": feed})[0]
    return logits


def sqnr_db(exact: np.ndarray, other: np.ndarray) -> float:
    noise = np.sum((exact.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(np.sum(exact.astype(np.float64) ** 2) / max(noise, 1e-30)))


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("rest", ["float32", "float16"])
@pytest.mark.parametrize("batch", [1, 7])
def test_answers_are_those_of_the_graph(
    float_net: Callable[..., Any],
    qdq_net: Callable[..., Any],
    tmp_path: Path,
    quantized: bool,
    rest: str,
    batch: int,
) -> None:
    net = qdq_net() if quantized else float_net()
    feed = np.random.default_rng(0).standard_normal((batch, 3, 16, 16)).astype(np.float32)
    with BACKEND.load(build(net, tmp_path, rest=rest), CUDA) as runner:
        logits = runner.infer({"input": feed})["logits"]
        again = runner.infer({"input": feed})["logits"]
    # A value on the edge between two integers may fall to either side.
    least_db = 25 if quantized else 50 if rest == "float32" else 40
    assert sqnr_db(reference(net, feed), logits) > least_db
    assert np.array_equal(logits, again)


def test_cuda_graphs_change_nothing(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    engine = build(qdq_net(), tmp_path)
    replaying = BuildConfig("cuda:0", options={"cuda_graph": "true"})
    feeds = [np.random.default_rng(n).random((n, 3, 16, 16), np.float32) for n in (1, 4, 1, 4)]
    with BACKEND.load(engine, CUDA) as plain, BACKEND.load(engine, replaying) as replayed:
        for feed in feeds:
            expected = plain.infer({"input": feed})["logits"]
            np.testing.assert_allclose(
                replayed.infer({"input": feed})["logits"], expected, rtol=1e-3, atol=1e-3
            )


def test_several_contexts_answer_as_one(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    engine = build(qdq_net(), tmp_path)
    several = BuildConfig("cuda:0", options={"contexts": "3"})
    feeds = [np.random.default_rng(n).random((1 + n % 4, 3, 16, 16), np.float32) for n in range(12)]
    with (
        BACKEND.load(engine, CUDA) as one,
        BACKEND.load(engine, several) as shared,
        ThreadPoolExecutor(6) as threads,
    ):
        answers = list(threads.map(lambda feed: shared.infer({"input": feed})["logits"], feeds))
        for feed, answer in zip(feeds, answers, strict=True):
            wanted = one.infer({"input": feed})["logits"]
            np.testing.assert_allclose(answer, wanted, rtol=1e-3, atol=1e-3)


def test_tensors_of_torch_stay_on_the_gpu(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    feed = np.random.default_rng(0).random((3, 3, 16, 16), np.float32)
    for replay in ("false", "true"):
        config = BuildConfig("cuda:0", options={"cuda_graph": replay})
        with BACKEND.load(build(qdq_net(), tmp_path), config) as runner:
            images = torch.from_numpy(feed).to("cuda:0")
            for _ in range(2):
                answer = runner.infer_resident({"input": images})["logits"]
            logits = torch.from_dlpack(answer).cpu().numpy()
            expected = runner.infer({"input": feed})["logits"]
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
        assert float(images.sum()) == pytest.approx(float(feed.sum()), rel=1e-4)


def test_several_profiles_answer_as_one(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    plans = {}
    for batches in ("1", "1,4"):
        (tmp_path / batches).mkdir()
        plans[batches] = build(qdq_net(), tmp_path / batches, opt_batch=batches, max_batch="8")
    feeds = [np.random.default_rng(n).random((n, 3, 16, 16), np.float32) for n in (1, 4, 8, 1)]
    with BACKEND.load(plans["1"], CUDA) as one, BACKEND.load(plans["1,4"], CUDA) as several:
        for feed in feeds:
            expected = one.infer({"input": feed})["logits"]
            np.testing.assert_allclose(
                several.infer({"input": feed})["logits"], expected, rtol=1e-2, atol=1e-2
            )


def test_the_inspector_finds_every_product_in_int8(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    engine = build(net, tmp_path)
    products = {node.name for node in net.nodes if node.op_type in {"Conv", "Gemm"}}
    found = {
        node: layer.precision
        for layer in BACKEND.layers(engine)
        for node in layer.nodes
        if node in products
    }
    assert found == dict.fromkeys(products, "int8")


def test_kernels_are_kept_for_the_next_run(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    engine = build(qdq_net(), tmp_path)
    if engine.versions["flavor"] != "tensorrt_rtx":
        pytest.skip("TensorRT compiles no kernels at run time")
    cache = tmp_path / "kernels.bin"
    config = BuildConfig("cuda:0", options={"runtime_cache": str(cache)})
    feed = np.zeros((1, 3, 16, 16), np.float32)
    for _ in range(2):
        with BACKEND.load(engine, config) as runner:
            runner.infer({"input": feed})
        assert cache.stat().st_size > 0
