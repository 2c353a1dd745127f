"""A small network in normal form, and a target that runs here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import target_names
from edgeres.backends.target import Target, open_target
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.errors import EdgeResError

SHORT = MeasureSettings(
    seconds=0.003, rounds=3, min_runs=3, max_seconds=0.1, warmup_seconds=0.001, pause_seconds=0
)


def small_network(path: Path, *, unit: int = 0, classes: int = 10, size: int = 16) -> Path:
    """Stem with pooling, a block with a projection and maybe a grouped convolution, classifier."""
    noise = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(
        name: str, source: str, cin: int, cout: int, kernel: int, stride: int, groups: int = 1
    ):
        shape = (cout, cin // groups, kernel, kernel)
        weights.append(
            numpy_helper.from_array(noise.standard_normal(shape).astype("f4"), f"{name}.weight")
        )
        weights.append(
            numpy_helper.from_array(noise.standard_normal(cout).astype("f4"), f"{name}.bias")
        )
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"{name}.weight", f"{name}.bias"],
                [f"{name}.out"],
                name=name,
                kernel_shape=[kernel] * 2,
                strides=[stride] * 2,
                pads=[kernel // 2] * 4,
                group=groups,
            )
        )
        return f"{name}.out"

    def op(kind: str, name: str, *sources: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, sources, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    stem = op("Relu", "relu", conv("conv1", "input", 3, 16, 3, 1))
    x = op("MaxPool", "pool", stem, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    y = op("Relu", "a.relu", conv("a.conv1", x, 16, 32, 3, 2))
    if unit:
        y = op("Relu", "g.relu", conv("a.group", y, 32, 32, 3, 1, groups=32 // unit))
    y = conv("a.conv2", y, 32, 32, 3, 1)
    z = op("Add", "a.add", y, conv("a.down", x, 16, 32, 1, 2))
    z = op("Relu", "a.relu_1", z)
    flat = op("Flatten", "flat", op("GlobalAveragePool", "gap", z))
    weights.append(
        numpy_helper.from_array(noise.standard_normal((classes, 32)).astype("f4"), "fc.weight")
    )
    weights.append(numpy_helper.from_array(np.zeros(classes, "f4"), "fc.bias"))
    nodes.append(
        helper.make_node("Gemm", [flat, "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1)
    )
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return small_network(tmp_path / "net.onnx")


def runnable_targets() -> list[str]:
    """Targets whose engines run on this machine."""
    found = []
    for name in target_names():
        try:
            if open_target(name).not_executable is None:
                found.append(name)
        except EdgeResError:
            continue
    return found


@pytest.fixture(params=runnable_targets() or [None])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param is None:
        pytest.skip("no backend can run engines on this machine")
    return open_target(request.param)
