"""A report as a run with three targets would give it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.backends.base import LayerInfo
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation import run_folder
from edgeres.evaluation.compare import Flips
from edgeres.evaluation.coverage import FloatLayer
from edgeres.evaluation.gates import Check
from edgeres.evaluation.predictions import Predictions
from edgeres.report.evidence import LATENCY, RECIPE, pair_answers, write_target
from edgeres.report.schema import (
    BaselinePart,
    ModelPart,
    Percentiles,
    PruningPart,
    Report,
    TargetPart,
    write_report,
)
from edgeres.report.write import write_reports
from edgeres.system.environment import Environment
from edgeres.system.progress import StagePart

CLASSES = ("cat", "dog <b>", "owl")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


def predictions(answers: list[int]) -> Predictions:
    logits = np.full((len(answers), 3), -1.0, np.float32)
    logits[np.arange(len(answers)), answers] = np.linspace(1, 3, len(answers), dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2], np.int64)
    return Predictions(logits, labels, class_names=CLASSES)


@pytest.fixture
def images() -> ArrayDataset:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8), np.uint8)
    labels = np.array([0, 0, 1, 1, 2, 2], np.int64)
    return ArrayDataset("six", pixels, labels, CLASSES)


@pytest.fixture
def output(report, images, residual_onnx, tmp_path: Path) -> Path:
    """An output folder: lost image 1 and gained image 3, on both targets that ran."""
    folder = tmp_path / "out"
    layers = [
        LayerInfo("l0", "QLinearConv", "int8", ("conv_a",)),
        LayerInfo("l1", "Conv", "float32"),
    ]
    answers = pair_answers(predictions([0, 0, 1, 0, 2, 2]), predictions([0, 2, 1, 1, 2, 2]))
    for name in ("onnxruntime", "openvino", "tensorrt"):
        write_target(
            folder / run_folder.EVIDENCE,
            name,
            layers=layers,
            macs_by_node={"conv_a": 10},
            answers=None if name == "tensorrt" else answers,
            images=images,
            preprocess=Preprocess(scale=1.0, channels=1),
        )
        (folder / name).mkdir()
        shutil.copyfile(residual_onnx, folder / name / "model.qdq.onnx")
        (folder / name / "model.qdq.json").write_text(
            json.dumps(
                {"saturation_safe": True, "weight_sqnr_db": {"conv_a": 41.5, "conv_b": 33.0}}
            )
        )
    compared = {
        "suspects": [{"node": "conv_a", "text": "conv_a alone leaves <5 dB."}],
        "layers": [
            {"node": "conv_a", "sqnr_db": 27.3, "own_sqnr_db": 31.4},
            {"node": "x", "sqnr_db": None, "own_sqnr_db": None},
        ],
    }
    alone = {"nodes": [{"node": "conv_a", "only": {"sqnr_db": 51.2}}, {"node": "odd"}]}
    (folder / run_folder.EVIDENCE / "openvino-compare.json").write_text(json.dumps(compared))
    (folder / run_folder.EVIDENCE / "openvino-sensitivity.json").write_text(json.dumps(alone))
    times = {"quantiles_ms": [1.0 + 0.01 * n for n in range(101)], "first_ms": 4.0}
    (folder / run_folder.EVIDENCE / LATENCY).write_text(
        json.dumps({"openvino": {"fp32": times, "int8": times}})
    )
    (folder / run_folder.EVIDENCE / RECIPE).write_text(
        json.dumps({"name": "tiny </script>", "targets": ["all"]})
    )
    write_report(report(), folder / "report.json")
    return folder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, output):
    """The page as a browser shows it; ``page.seen`` has every request and console message."""
    write_reports(output, output)
    context = browser.new_context(offline=True, viewport={"width": 1100, "height": 800})
    page = context.new_page()
    page.seen = []
    page.on("console", lambda message: page.seen.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: page.seen.append(f"error: {error}"))
    page.on("request", lambda request: page.seen.append(request.url))
    page.goto((output / "report.html").as_uri())
    yield page
    context.close()
