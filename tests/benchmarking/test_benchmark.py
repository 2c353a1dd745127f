"""Engine files side by side with a real runtime; only what must hold on a busy machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.benchmarking.benchmark import benchmark
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.errors import ArtefactError, DataError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec

QUICK = MeasureSettings(seconds=0.05, rounds=3, min_runs=20, max_seconds=1.0, warmup_seconds=0.2)


def convolutions(layers: int, size: int = 16) -> onnx.ModelProto:
    """A chain of 3x3 convolutions of 16 channels, pooled to two scores."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []
    previous, channels = "x", 3
    for index in range(layers):
        weight = rng.standard_normal((16, channels, 3, 3)).astype(np.float32) / 10
        constants.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [previous, f"w{index}"], [f"c{index}"], pads=[1] * 4))
        previous, channels = f"c{index}", 16
    nodes.append(helper.make_node("GlobalAveragePool", [previous], ["p"]))
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    for index, node in enumerate(nodes):
        node.name = f"node{index}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", channels])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("engines")
    made = {}
    for name, model in {
        "long": convolutions(12, size=48),
        "short": convolutions(1, size=48),
        "other": convolutions(1, size=8),
    }.items():
        source = folder / f"{name}.source.onnx"
        onnx.save(model, source)
        made[name] = folder / f"{name}{backend.engine_suffix}"
        backend.build(source, made[name], BuildConfig())
    return made


def test_the_longer_network_is_slower(engines) -> None:
    steps: list[tuple[int, int]] = []
    found = benchmark(
        [engines["long"], engines["short"]],
        threads=1,
        settings=QUICK,
        progress=lambda done, total: steps.append((done, total)),
    )
    long, short = found.engines[str(engines["long"])], found.engines[str(engines["short"])]
    assert long.speedup is None
    assert short.speedup is not None
    # Twelve convolutions against one: load can move this, not turn it round.
    assert short.speedup.value > 2
    assert 0 < short.latency.min_ms <= short.latency.p50_ms <= short.latency.p99_ms
    assert short.latency.overhead_ms is not None
    assert short.latency.overhead_ms < short.latency.p50_ms
    assert long.load_ms > 0
    assert long.size_bytes == engines["long"].stat().st_size
    assert steps[-1] == (3, 3)
    assert found.exit_code == (0 if found.stable else 1)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    entry = told["engines"][str(engines["short"])]
    assert {"p50", "p90", "p99"} <= set(entry["latency_ms"])
    assert entry["speedup"] == short.speedup.value
    assert told["environment"]["cpu"]


def test_batches(engines) -> None:
    found = benchmark([engines["short"]], batch_size=4, threads=1, settings=QUICK)
    assert found.engines[str(engines["short"])].latency.batch_size == 4


def test_engines_of_other_shapes_are_not_comparable(engines) -> None:
    with pytest.raises(DataError, match="takes images of shape"):
        benchmark([engines["short"], engines["other"]], settings=QUICK)


def test_senseless_calls_are_refused(engines, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one engine"):
        benchmark([])
    with pytest.raises(UsageError, match="each once"):
        benchmark([engines["short"], engines["short"]])
    with pytest.raises(UsageError, match="batch size"):
        benchmark([engines["short"]], batch_size=0)
    with pytest.raises(ArtefactError, match="no such engine"):
        benchmark([tmp_path / "none.onnx"])


def test_made_up_inputs_fit_the_engine() -> None:
    inputs = made_up_inputs(TensorSpec("x", (None, 3, 8, 8), "float32"), 2)
    assert {images.shape for images in inputs} == {(2, 3, 8, 8)}
    assert not np.array_equal(inputs[0], inputs[1])
    fixed = made_up_inputs(TensorSpec("x", (4, 3, 8, 8), "float32"), 1)
    assert fixed[0].shape == (4, 3, 8, 8)
    with pytest.raises(UsageError, match="batches of 4, not of 2"):
        made_up_inputs(TensorSpec("x", (4, 3, 8, 8), "float32"), 2)
    with pytest.raises(ModelError, match="not fixed"):
        made_up_inputs(TensorSpec("x", (None, 3, None, 8), "float32"), 1)
