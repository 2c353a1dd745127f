"""Draws `docs/qdq.svg`: a residual block before and after edgeres quantizes it for TensorRT.

Both halves are drawn from real graphs: a small network is written, calibrated with noise and
quantized under the rules of the TensorRT backend, so the picture cannot differ from the code.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize

TARGET = Path(__file__).parent.parent / "docs" / "qdq.svg"
CELL = (132, 62)
BOX = (104, 34)
COLOURS = {"Conv": "#9ec5f0", "QuantizeLinear": "#f6c98a", "DequantizeLinear": "#f6e3a1"}
SHORT = {"QuantizeLinear": "Q", "DequantizeLinear": "DQ"}
INT8, FLOAT = "#2b8a3e", "#868e96"


def residual_block() -> onnx.ModelProto:
    """Two 3x3 convolutions with Relu, the block's input added before the last one."""
    random = np.random.default_rng(0)
    constants = []
    for name in ("conv1", "conv2"):
        weight = random.standard_normal((8, 8, 3, 3)).astype(np.float32) / 8
        constants.append(numpy_helper.from_array(weight, f"{name}.weight"))
        constants.append(numpy_helper.from_array(np.zeros(8, np.float32), f"{name}.bias"))
    window = {"kernel_shape": [3, 3], "pads": [1] * 4}

    def conv(name: str, source: str, out: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [out], name=name, **window)

    nodes = [
        conv("conv1", "x", "a"),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        conv("conv2", "b", "c"),
        helper.make_node("Add", ["c", "x"], ["d"], name="add"),
        helper.make_node("Relu", ["d"], ["y"], name="relu2"),
    ]
    shape = ["N", 8, 8, 8]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def both() -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """The block in float, and as the quantizer writes it for TensorRT."""
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name) / "net.onnx", Path(name) / "net.qdq.onnx"
        onnx.save(residual_block(), before)
        images = np.random.default_rng(1).standard_normal((8, 8, 8, 8)).astype(np.float32)
        table = calibrate(before, iter([images]))
        quantize(before, table, get_backend("tensorrt").qdq_rules("cuda:0"), after)
        return onnx.load(before).graph, onnx.load(after).graph


def places(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    """Column and row of every node: data flows down, weights come from left."""
    maker = {output: node.name for node in graph.node for output in node.output}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, tensor in enumerate(node.input):
            if tensor in maker:
                readers.setdefault(maker[tensor], []).append((node, index))
    column: dict[str, float] = {}
    row: dict[str, float] = {}
    for node in reversed(graph.node):
        steps = [
            column[reader.name] - (reader.op_type == "Conv" and index == 1)
            for reader, index in readers.get(node.name, ())
        ]
        column[node.name] = min(steps, key=lambda step: (step < 0, abs(step)), default=0)
    for node in graph.node:
        above = [row[maker[tensor]] for tensor in node.input if tensor in maker]
        row[node.name] = max(above) + 1 if above else 1
    for node in graph.node:  # a constant's DQ stands beside what reads it
        if column[node.name] < 0:
            row[node.name] = row[readers[node.name][0][0].name]
    return {name: (column[name], row[name]) for name in column}


def draw(graph: onnx.GraphProto, title: str, left: float) -> tuple[list[str], float, float]:
    """One graph as SVG elements, with its right edge and its height."""
    found = places(graph)
    low = min(column for column, _ in found.values())
    centre = {
        name: (left + (column - low + 0.5) * CELL[0], (row + 0.9) * CELL[1])
        for name, (column, row) in found.items()
    }
    start, end = graph.input[0].name, graph.output[0].name
    centre[start] = (left + (0.5 - low) * CELL[0], 0.95 * CELL[1])
    last = max(y for _, y in centre.values())
    centre[end] = (centre[graph.node[-1].name][0], last + CELL[1])
    maker = {output: node for node in graph.node for output in node.output}
    parts = [f'<text x="{left + 8}" y="24" class="title">{escape(title)}</text>']
    for node in graph.node:
        for index, tensor in enumerate(node.input):
            if tensor in maker or tensor == start:
                source = maker[tensor].name if tensor in maker else start
                int8 = tensor in maker and maker[tensor].op_type == "QuantizeLinear"
                skip = node.op_type == "Add" and index == 1
                parts.append(line(centre[source], centre[node.name], int8, skip))
    parts.append(line(centre[graph.node[-1].name], centre[end], False, False))
    for node in graph.node:
        colour = COLOURS.get(node.op_type, "#e9ecef")
        parts += box(centre[node.name], SHORT.get(node.op_type, node.op_type), colour)
        if node.op_type == "DequantizeLinear" and node.input[0] not in maker:
            x, y = centre[node.name]
            parts.append(f'<text x="{x}" y="{y + 32}" class="small">INT8 weights</text>')
    for name in (start, end):
        x, y = centre[name]
        parts.append(f'<text x="{x}" y="{y + 5}" class="name">{escape(name)}</text>')
    return parts, max(x for x, _ in centre.values()) + CELL[0], centre[end][1] + 20


def line(start: tuple[float, float], end: tuple[float, float], int8: bool, skip: bool) -> str:
    """An edge: from left, down, or around on the right for the skip of a block."""
    (x1, y1), (x2, y2) = start, end
    colour, width = (INT8, 3) if int8 else (FLOAT, 1.5)
    if skip:
        lane = x2 + 0.7 * CELL[0]
        path = f"M{x1},{y1 + 22} H{lane} V{y2} H{x2 + BOX[0] / 2}"
    elif y1 == y2:
        path = f"M{x1 + BOX[0] / 2},{y1} H{x2 - BOX[0] / 2}"
    else:
        path = f"M{x1},{y1 + 16} V{y2 - BOX[1] / 2}"
    return f'<path d="{path}" stroke="{colour}" stroke-width="{width}" fill="none"/>'


def box(centre: tuple[float, float], text: str, colour: str) -> list[str]:
    """A node."""
    x, y = centre[0] - BOX[0] / 2, centre[1] - BOX[1] / 2
    shape = f'x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="6"'
    return [
        f'<rect {shape} fill="{colour}" stroke="#495057"/>',
        f'<text x="{centre[0]}" y="{centre[1] + 5}" class="name">{escape(text)}</text>',
    ]


def main() -> None:
    """Writes the picture."""
    before, after = both()
    left, edge, height = draw(before, "Before: all in FP32", 10)
    right, width, taller = draw(after, "After: Q/DQ for TensorRT", max(edge, 220) + 20)
    height = max(height, taller) + 30
    legend = [
        f'<path d="M20,{height - 18} h40" stroke="{INT8}" stroke-width="3"/>',
        f'<text x="68" y="{height - 13}" class="key">INT8 tensor</text>',
        f'<path d="M180,{height - 18} h40" stroke="{FLOAT}" stroke-width="1.5"/>',
        f'<text x="228" y="{height - 13}" class="key">float tensor</text>',
    ]
    style = (
        "text{font-family:sans-serif;fill:#212529}.title{font-size:17px;font-weight:bold}"
        ".name{font-size:15px;text-anchor:middle}.small{font-size:12px;text-anchor:middle}"
        ".key{font-size:14px}"
    )
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    body = "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<style>{style}</style>",
            '<rect width="100%" height="100%" fill="white"/>',
            *left,
            *right,
            *legend,
            "</svg>",
        ]
    )
    TARGET.write_text(body + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
