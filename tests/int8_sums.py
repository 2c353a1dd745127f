"""A network of INT8 sums that saturate without VNNI, and programs that run it on each engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PRODUCTS = 64
RUN = {
    "onnxruntime": """
import onnxruntime, numpy, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {x.name: numpy.ones(x.shape, "float32") for x in session.get_inputs()}
print([float(y.max()) for y in session.run(None, feeds)])
""",
    "openvino": """
import openvino, numpy, sys
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
found = model({x.any_name: numpy.ones(tuple(x.shape), "float32") for x in model.inputs})
print([float(found[y].max()) for y in model.outputs])
""",
}


def python(code: str, *arguments: object, environment=None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=300,
    )


def write_sums(folder: Path) -> Path:
    """A convolution and a Gemm of 64 products 255 * 127 in INT8, whose right sums are 64."""
    constants = {
        "x_scale": np.float32(1 / 255),
        "x_zero": np.uint8(0),
        "w_scale": np.full(16, 1 / 127, np.float32),
        "w_zero": np.zeros(16, np.int8),
        "y_scale": np.float32(PRODUCTS / 250),
        "conv_w": np.full((16, PRODUCTS, 1, 1), 127, np.int8),
        "gemm_w": np.full((16, PRODUCTS), 127, np.int8),
    }
    nodes, inputs, outputs = [], [], []
    for name, op, more, tail in (
        ("conv", "Conv", {}, [4, 4]),
        ("gemm", "Gemm", {"transB": 1}, []),
    ):
        x, y = f"{name}_x", f"{name}_y"
        inputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, PRODUCTS, *tail]))
        outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 16, *tail]))
        of_x, of_w, of_y = ["x_scale", "x_zero"], ["w_scale", "w_zero"], ["y_scale", "x_zero"]
        nodes += [
            helper.make_node("QuantizeLinear", [x, *of_x], [f"{x}q"]),
            helper.make_node("DequantizeLinear", [f"{x}q", *of_x], [f"{x}f"]),
            helper.make_node("DequantizeLinear", [f"{name}_w", *of_w], [f"{name}_wf"], axis=0),
            helper.make_node(op, [f"{x}f", f"{name}_wf"], [f"{name}_sum"], name, **more),
            helper.make_node("QuantizeLinear", [f"{name}_sum", *of_y], [f"{y}q"]),
            helper.make_node("DequantizeLinear", [f"{y}q", *of_y], [y]),
        ]
    values = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "sums", inputs, outputs, values)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "sums.onnx")
    return folder / "sums.onnx"
