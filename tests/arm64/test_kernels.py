"""Layers that OpenVINO has no INT8 kernel for on Arm run in float, each for its own reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import get_backend

from .conftest import Arm

ASK = """
import json, sys
from pathlib import Path
import numpy as np
from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
source, place = Path(sys.argv[1]), Path(sys.argv[2])
openvino, one = get_backend("openvino"), BuildConfig(threads=1)
engine = openvino.build(source, place / f"{source.stem}.xml", one)
with openvino.load(engine, one) as runner, np.load(source.with_suffix(".npz")) as told:
    answer = runner.infer({"x": told["x"]})["y"]
    error = float(np.abs(answer - told["y"]).max() / np.abs(told["y"]).max())
layer = next(each for each in openvino.layers(engine) if each.op == "Convolution")
print(json.dumps([layer.precision, layer.reason, error]))
"""
WANTING = "OpenVINO has no kernel for its INT8 form on this CPU"
# Of the layer: kernel, stride, zero point of its input; precision and reason on Arm.
KINDS: dict[str, tuple[int, int, int, str, str]] = {
    "stem": (7, 2, 114, "float32", f"{WANTING}: the zero point of its input is 114"),
    "shortcut": (1, 2, 0, "float32", WANTING),
    "pointwise": (1, 1, 0, "int8", ""),
    "strided": (3, 2, 0, "int8", ""),
    "unit": (3, 1, 0, "float32", ""),  # by OpenVINO's own choice
}


def write_layer(path: Path, kernel: int, stride: int, zero: int) -> None:
    """Q, DQ, Conv with a bias, Relu, Q, DQ; its input, and its answer in float on x86."""
    import onnxruntime

    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "s": np.float32(0.02),
        "z": np.uint8(zero),
        "w": rng.integers(-127, 128, (32, 16, kernel, kernel)).astype(np.int8),
        "ws": rng.uniform(0.005, 0.02, 32).astype(np.float32) / (4 * kernel),
        "b": rng.standard_normal(32).astype(np.float32),
        "ys": np.float32(0.05),
        "yz": np.uint8(0),
    }
    node = helper.make_node
    around = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        node("Conv", ["d", "wd", "b"], ["c"], name="conv", **around),
        node("Relu", ["c"], ["r"]),
        node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
        node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    x = rng.uniform(-0.02 * zero, 0.02 * (255 - zero), (1, 16, 16, 16)).astype(np.float32)
    np.savez(path.with_suffix(".npz"), x=x, y=session.run(None, {"x": x})[0])


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_has_no_int8_kernel_runs_in_float_and_says_why(
    arm: Arm, tmp_path: Path, cpu: str, kind: str
) -> None:
    """OpenVINO itself refuses the shortcut, and the stem on a Cortex-A72; on the other it takes
    the stem in float16.
    """
    if (reason := get_backend("onnxruntime").missing()) is not None:
        pytest.skip(reason)
    kernel, stride, zero, precision, why = KINDS[kind]
    write_layer(tmp_path / f"{kind}.onnx", kernel, stride, zero)
    told = arm(cpu, "-c", ASK, tmp_path / f"{kind}.onnx", tmp_path, read=True)
    assert told[:2] == [precision, why]
    assert told[2] < 0.01
