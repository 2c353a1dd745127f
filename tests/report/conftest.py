"""A report as a run with three targets would give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.evaluation.compare import Flips
from edgeres.evaluation.coverage import FloatLayer
from edgeres.evaluation.gates import Check
from edgeres.report.schema import (
    BaselinePart,
    ModelPart,
    Percentiles,
    PruningPart,
    Report,
    TargetPart,
)
from edgeres.system.environment import Environment
from edgeres.system.progress import StagePart


@pytest.fixture
def target() -> Callable[..., TargetPart]:
    """Builds a good target; keywords replace its fields."""

    def build(**changes: Any) -> TargetPart:
        fields: dict[str, Any] = {
            "engine": "onnxruntime/model.onnx",
            "size_bytes": 312_345,
            "built": True,
            "executed": True,
            "verdict": "pass",
            "reason": "top-1 drop +0.21 pp, 95 % upper bound +0.42 pp, within 0.5 pp.",
            "top1": 0.954,
            "drop_pp": 0.21,
            "drop_upper_pp": 0.42,
            "quantization_drop_pp": 0.08,
            "agreement": 0.9912,
            "flips": Flips(lost=40, gained=19),
            "sqnr_db": 36.6,
            "int8_coverage": 0.982,
            "float_layers": (FloatLayer("stem/conv", 1, "float32", "the engine says so"),),
            "latency_ms": Percentiles(1.234, 1.301, 1.502),
            "fp32_latency_ms": Percentiles(3.58, 3.7, 3.9),
            "speedup": 2.9,
            "speedup_interval": (2.8, 3.0),
            "stable": True,
            "checks": (Check("accuracy", "pass", "fine.", 0.42, 0.5),),
        }
        return TargetPart(**(fields | changes))

    return build


@pytest.fixture
def report(target: Callable[..., TargetPart]) -> Callable[..., Report]:
    """Builds a report with one good, one doubtful and one target that was not run."""

    def build(**changes: Any) -> Report:
        targets = {
            "onnxruntime": target(),
            "openvino": target(
                engine="openvino/model.xml",
                verdict="inconclusive",
                reason="top-1 drop +0.31 pp could lie between +0.05 and +0.62 pp.",
                drop_pp=0.31,
                drop_upper_pp=0.62,
                latency_ms=Percentiles(12.34, 14.1, 123.4),
                speedup=0.91,
                speedup_interval=(0.88, 0.94),
                stable=False,
                doubts=("other work kept 1.4 of 2 CPUs busy",),
            ),
            "tensorrt": TargetPart(
                engine="tensorrt/model.plan",
                size_bytes=1_400_000,
                built=True,
                executed=False,
                verdict="not_executed",
                reason="no NVIDIA driver here.",
                int8_coverage=1.0,
            ),
        }
        fields: dict[str, Any] = {
            "environment": Environment(
                "AMD EPYC", ("avx2",), "x86_64", 2, 2, 8 << 30, "Linux", "3.11.7", {"numpy": "2"}
            ),
            "model": ModelPart("resnet20", 272_474, 40_812_544, "ab" * 32),
            "baseline": BaselinePart(
                0.9561, 10_000, {"onnxruntime": Percentiles(3.58, 3.7, 3.9)}, data="fashion-mnist"
            ),
            "pruning": PruningPart(0.9535, 20_400_000, 123_456, 0.5, drop_pp=0.13),
            "stages": (StagePart("quantize", 1.5, False, 10_000_000),),
            "targets": targets,
        }
        return Report(**(fields | changes))

    return build


@pytest.fixture
def residual_onnx(tmp_path: Path) -> Path:
    """A Q/DQ model with two residual Adds: an identity skip and a convolution on the skip."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    zero, scale = np.zeros((), np.int8), np.float32(0.1)
    weights = [
        numpy_helper.from_array(np.zeros((2, 2, 1, 1), np.int8), "w"),
        numpy_helper.from_array(np.asarray(scale), "s"),
        numpy_helper.from_array(zero, "z"),
    ]

    def q(source: str, out: str) -> onnx.NodeProto:
        return helper.make_node("QuantizeLinear", [source, "s", "z"], [out], out)

    def dq(source: str, out: str) -> onnx.NodeProto:
        return helper.make_node("DequantizeLinear", [source, "s", "z"], [out], out)

    def conv(source: str, out: str) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, "wf"], [out], out)

    nodes = [
        dq("w", "wf"),
        q("x", "xq"),
        dq("xq", "xd"),
        conv("xd", "conv_a"),
        helper.make_node("Add", ["conv_a", "xd"], ["first_add"], "first_add"),
        helper.make_node("Relu", ["first_add"], ["relu"], "relu"),
        conv("relu", "conv_b"),
        conv("relu", "conv_skip"),
        q("conv_skip", "skip_q"),
        dq("skip_q", "skip_d"),
        helper.make_node("Add", ["conv_b", "skip_d"], ["second_add"], "second_add"),
    ]
    shape = [1, 2, 4, 4]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("second_add", TensorProto.FLOAT, shape)],
        weights,
    )
    path = tmp_path / "residual.onnx"
    onnx.save(helper.make_model(graph), path)
    return path
