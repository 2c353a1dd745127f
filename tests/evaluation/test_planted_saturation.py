"""What an engine computes otherwise than its source: sums that clip without VNNI, and pools."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation.causes import Evidence
from edgeres.evaluation.compared import open_model
from edgeres.evaluation.distances import LayerDistance
from edgeres.evaluation.layerwise import compare
from edgeres.quantization.stored_weight import stored_weight
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.stages.int8 import quantize
from edgeres.stages.network import build

from ..conftest import QdqWriter
from .conftest import ENGINES, LAYER, engine_of


def run_edgeres(
    environment: Mapping[str, str], arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    """A command in a child process."""
    return subprocess.run(
        [sys.executable, "-m", "edgeres", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("weights", ["plain", "safe"])
def test_layers_that_saturate_without_vnni_are_named(
    run, tmp_path, without_vnni, name, weights
) -> None:
    """A CPU with AVX2 alone clips INT8 sums, unless the weights were made for it."""
    engine_of(run, name)
    rules = replace(get_backend(name).qdq_rules("cpu"), saturating=weights == "safe")
    fp32, table, qdq = (
        run / "baseline" / "model.onnx",
        run / "baseline" / "table.json",
        tmp_path / "q.onnx",
    )
    made = quantize(fp32, table, qdq, rules=rules, settings=QuantizeBlock())
    engine = build(qdq, tmp_path / "engine", target=name, threads=1)
    arguments = ["compare", str(qdq), str(engine.path), "--samples", "8", "--threads", "1"]
    arguments += ["--json", "--mean", "0.286", "--std", "0.353"]
    done = run_edgeres(without_vnni, arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    named = {s["node"] for s in found["suspects"] if s["kind"] == "engine"}
    can_overflow = {node for node, proof in made.saturation.items() if not proof.safe}
    assert named <= can_overflow
    assert bool(named) == (weights == "plain")
    assert {s["cause"] for s in found["suspects"] if s["kind"] == "engine"} <= {"saturation"}


def test_a_saturating_engine_fails_and_its_layer_is_named(run, planted, without_vnni) -> None:
    """The same engine is good where sums are exact; a CPU with AVX2 alone clips them."""
    rules = replace(get_backend("onnxruntime").qdq_rules("cpu"), saturating=False)
    fp32, table = run / "baseline" / "model.onnx", run / "baseline" / "table.json"
    folder = planted / "onnxruntime"
    made = quantize(fp32, table, folder / "model.qdq.onnx", rules=rules, settings=QuantizeBlock())
    build(folder / "model.qdq.onnx", folder / "model", target="onnxruntime", threads=1)
    arguments = ["validate", str(folder / "model.onnx"), "--data", f"npz:{planted / 'few.npz'}"]
    arguments += ["--max-drop", "0", "--confidence", "0.5", "--threads", "1", "--json"]
    done = run_edgeres(without_vnni, arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "fail"
    node, _, text = found["explanation"].partition(":")
    assert "their products can leave int16 on this device" in text
    assert not made.saturation[node].safe
    unsafe = {node for node, proof in made.saturation.items() if not proof.safe}
    told = {f["node"] for f in found["findings"] if f["rule"] == "saturation"}
    assert told == unsafe


def noise():
    """Images of noise."""
    pixels = np.random.default_rng(5).integers(0, 256, (4, 9, 9), dtype=np.uint8)
    return ArrayDataset("noise", pixels, np.zeros(4, np.int64), ("a", "b"))


@pytest.mark.parametrize("name", ENGINES)
def test_a_pool_is_named_as_such_and_no_layer_before_it(run, tmp_path, name) -> None:
    """OpenVINO pads with the integer 0, ONNX Runtime counts pixels beyond the border."""
    engine_of(run, name)
    kernel = {"openvino": {"kernel_shape": [3, 3], "pads": [1] * 4}}.get(
        name, {"kernel_shape": [2, 2], "ceil_mode": 1}
    )
    net = QdqWriter(9, channels=1)
    first = np.random.default_rng(0).integers(-60, 60, (8, 1, 3, 3))
    x = net.conv(net.pair("x", "x1", 0.02, zero=128), "first", first)
    x = net.add("AveragePool", [net.pair(x, "x2", zero=128)], "pool", count_include_pad=1,
                strides=[2, 2], **kernel)  # fmt: skip
    x = net.conv(net.pair(x, "x3", zero=128), "last", np.full((2, 8, 1, 1), 30))
    x = net.add("Flatten", [net.add("GlobalAveragePool", [x], "mean")], "scores")
    qdq = net.save(tmp_path / "net.onnx", x)
    engine = build(qdq, tmp_path / "engine", target=name, threads=1)
    preprocess = Preprocess(mean=(0.5,), std=(0.25,), channels=1)
    found = compare(qdq, engine.path, noise(), preprocess, threads=1)
    blamed = [s for s in found.suspects if s.kind == "engine"]
    assert [(s.node, s.cause) for s in blamed] == [("pool", "pool")]
    assert "an INT8 AveragePool with" in blamed[0].text


def test_without_a_cause_that_was_checked_none_is_named(run) -> None:
    """Whatever this CPU does: the weights are safe where its sums clip, and else no sum clips."""
    engine = engine_of(run, "onnxruntime")
    model = open_model(engine, [engine], isolate=False)
    layer = LayerDistance(LAYER, "Conv", "", (LAYER,), True, 20.0, 20.0, None, None)
    cause, text = Evidence(model, model).of_engine(layer, candidate=True)
    assert cause == "unknown"
    assert text.startswith("No cause was found: ")
    safe = quantized_weight_is_safe(model.graph, LAYER)
    assert ("so no sum can saturate" if safe else "INT8 sums are exact on this device") in text


def quantized_weight_is_safe(model, name):
    node = next(node for node in model.graph if node.name == name)
    return stored_weight(node).saturation.safe
