"""What TensorRT for RTX really makes of each planted file when nobody lints it.

These are the facts behind the table in docs/tensorrt.md. If a newer TensorRT turns one of them
around, the rule in ``tensorrt/lint.py`` has to follow.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeres.backends.tensorrt.api import load_trt
from edgeres.backends.tensorrt.build import BuiltPlan, build_plan
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.backends.tensorrt.layerlist import read_log
from edgeres.backends.tensorrt.layers import assign_products
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import ModelError

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
pytestmark = pytest.mark.slow

ACTIVATION = "layer1.0.relu1_out"
CONV = "layer1.0.conv2"


def built(net: Any, folder: Path) -> tuple[BuiltPlan, set[str]]:
    """The plan, and the products in it that are not INT8."""
    path = folder / "net.onnx"
    onnx.save(net.model(), path)
    plan = build_plan(load_trt("tensorrt_rtx"), path, TensorRTOptions(), {})
    op_types = read_graph(path).op_types
    records = assign_products(read_log(plan.layer_log, op_types), op_types)
    in_float = {
        node
        for record in records
        for node in record.nodes
        if op_types[node] in {"Conv", "Gemm"} and record.precision != "int8"
    }
    return plan, in_float


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [
        (f"{ACTIVATION}_zp", np.int8(3), "Non-zero zero point is not supported"),
        (f"{ACTIVATION}_zp", np.uint8(128), "Non-zero zero point is not supported"),
        (f"{ACTIVATION}_scale", np.float32(0), "must all be positive"),
        (f"{ACTIVATION}_scale", np.float32(-1), "must all be positive"),
        (f"{ACTIVATION}_scale", np.float32(np.nan), "must all be positive"),
        (f"{CONV}.weight_scale", np.zeros(8, np.float32), "must all be positive"),
    ],
)
def test_refused(
    qdq_net: Callable[..., Any], tmp_path: Path, constant: str, value: Any, message: str
) -> None:
    net = qdq_net()
    net.constants[constant] = value
    with pytest.raises(ModelError, match=message):
        built(net, tmp_path)


def test_int32_bias_is_refused(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    conv = net.node(CONV)
    net.constants["b"] = np.ones(8, np.int32)
    net.constants["b_scale"] = np.full(8, 1e-3, np.float32)
    place = net.nodes.index(conv)
    net.nodes.insert(
        place, helper.make_node("DequantizeLinear", ["b", "b_scale"], ["bias"], "b_dq", axis=0)
    )
    conv.input[2] = "bias"
    with pytest.raises(ModelError, match="has type Int32"):
        built(net, tmp_path)


def test_uint8_is_built_as_int8_with_a_warning(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.constants[f"{ACTIVATION}_zp"] = np.uint8(0)
    plan, in_float = built(net, tmp_path)
    assert in_float == set()
    assert any("Defaulting to INT8 instead" in warning for warning in plan.warnings)


def test_infinite_scales_are_built_without_a_word(
    qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    net = qdq_net()
    net.constants[f"{ACTIVATION}_scale"] = np.float32(np.inf)
    plan, in_float = built(net, tmp_path)
    assert (in_float, plan.warnings) == (set(), ())


@pytest.mark.parametrize("channels", [1, 8])
def test_per_channel_activations_are_silently_float(
    qdq_net: Callable[..., Any], tmp_path: Path, channels: int
) -> None:
    net = qdq_net()
    net.constants[f"{ACTIVATION}_scale"] = np.full(channels, 0.05, np.float32)
    net.constants[f"{ACTIVATION}_zp"] = np.zeros(channels, np.int8)
    plan, in_float = built(net, tmp_path)
    assert (in_float, plan.warnings) == ({CONV}, ())


@pytest.mark.parametrize("node", [CONV, "fc"])
def test_wrong_weight_axes_are_silently_float(
    qdq_net: Callable[..., Any], tmp_path: Path, node: str
) -> None:
    plan, in_float = built(qdq_net(qdq={"axes": {node: 1}}), tmp_path)
    assert (in_float, plan.warnings) == ({node}, ())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_conv_over_any_dimensions_is_int8_by_output_channel(
    qdq_conv: Callable[..., onnx.ModelProto], tmp_path: Path, dimensions: int
) -> None:
    precisions = []
    for axis in (0, -dimensions - 2, 1):
        onnx.save(qdq_conv(dimensions, axis=axis), tmp_path / "net.onnx")
        plan = build_plan(load_trt("tensorrt_rtx"), tmp_path / "net.onnx", TensorRTOptions(), {})
        records = read_log(plan.layer_log, ["conv"])
        precisions += [record.precision for record in records if record.is_product]
    assert precisions == ["int8", "int8", "float32"]


def test_a_computed_scale_crashes_the_process(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    net.nodes.insert(0, helper.make_node("ReduceMax", ["input"], ["top"], "top", keepdims=0))
    net.node(f"{ACTIVATION}_q").input[1] = "top"
    net.node(f"{ACTIVATION}_dq").input[1] = "top"
    onnx.save(net.model(), tmp_path / "net.onnx")
    code = (
        "import sys; from pathlib import Path\n"
        "from edgeres.backends.tensorrt.api import load_trt\n"
        "from edgeres.backends.tensorrt.build import build_plan, TensorRTOptions\n"
        "build_plan(load_trt('tensorrt_rtx'), Path(sys.argv[1]), TensorRTOptions(), {})\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.onnx")]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert ended.returncode == -signal.SIGSEGV


def test_turing_makes_everything_float_and_spoils_the_next_build(
    float_net: Callable[..., Any], qdq_net: Callable[..., Any], tmp_path: Path
) -> None:
    # In a process of its own, because of what it does to the process.
    onnx.save(float_net().model(), tmp_path / "float.onnx")
    onnx.save(qdq_net().model(), tmp_path / "int8.onnx")
    code = (
        "import sys; from pathlib import Path\n"
        "from edgeres.backends.tensorrt import api\n"
        "from edgeres.backends.tensorrt.build import build_plan, TensorRTOptions\n"
        "from edgeres.backends.tensorrt.layerlist import read_log\n"
        "from edgeres.errors import StageError\n"
        "api.check_targets = lambda trt, targets: None\n"
        "trt, folder = api.load_trt('tensorrt_rtx'), Path(sys.argv[1])\n"
        "turing = TensorRTOptions(compute_capabilities=('7.5',))\n"
        "try:\n"
        "    build_plan(trt, folder / 'float.onnx', turing, {})\n"
        "except StageError as error:\n"
        "    print('Turing' in str(error))\n"
        "for _ in range(2):\n"
        "    plan = build_plan(trt, folder / 'int8.onnx', TensorRTOptions(), {})\n"
        "    layers = [x for x in read_log(plan.layer_log) if x.op == 'correlation']\n"
        "    print(len(layers), sum(layer.precision == 'int8' for layer in layers))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, check=False, timeout=300, text=True)
    failed, first, second = ended.stdout.split("\n")[:3]
    assert failed == "True"
    convolutions, in_int8 = map(int, first.split())
    assert in_int8 < convolutions
    convolutions, in_int8 = map(int, second.split())
    assert in_int8 == convolutions
