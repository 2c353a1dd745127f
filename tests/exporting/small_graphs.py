"""Weights, texts and questions of the small graphs that the passes are tested on."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


HEAD = "p = GlobalAveragePool(c) f = Flatten(p) y = Gemm<transB=1>(f, fw, fb)"
HEAD_WEIGHTS = {"fw": floats(4, 8), "fb": floats(4)}
CONV_WEIGHTS = {"w": floats(8, 3, 3, 3), **HEAD_WEIGHTS}


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def attribute(model: onnx.ModelProto, op: str, name: str) -> object:
    node = next(n for n in model.graph.node if n.op_type == op)
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}[name]


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
