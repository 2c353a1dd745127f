"""Quantized files of 16 and 4 bits, in ONNX Runtime's own operators or those of opset 21."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.errors import ModelError
from edgeres.evaluation.qdq_check import check_file
from edgeres.exporting.foreign_checks import check_operators
from edgeres.graph.summary import summarize

CONTRIB = "com.microsoft"


def written(path: Path, domain: str, activations: str, weight: str = "int8") -> Path:
    """Conv, Relu and a pool between Q/DQ pairs."""
    values = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    step = float(np.abs(values).max()) / 7
    limits = np.iinfo(activations)
    zero = np.array((limits.min + limits.max + 1) // 2, activations)
    constants, nodes = [numpy_helper.from_array(zero, "zero")], []
    for name, scale in (("w", step), ("x", 8 / limits.max), ("r", 16 / limits.max)):
        constants.append(numpy_helper.from_array(np.array(scale, np.float32), f"{name}_s"))
    integers = np.rint(values / step).astype(np.int8)
    kind = getattr(TensorProto, weight.upper())
    constants.append(helper.make_tensor("w_q", kind, integers.shape, integers.ravel().tolist()))

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> None:
        own = domain if op.endswith("QuantizeLinear") or op == "DequantizeLinear" else ""
        nodes.append(helper.make_node(op, inputs, [output], name=output, domain=own, **attributes))

    node("QuantizeLinear", ["x", "x_s", "zero"], "x_q")
    node("DequantizeLinear", ["x_q", "x_s", "zero"], "x_d")
    node("DequantizeLinear", ["w_q", "w_s"], "w")
    node("Conv", ["x_d", "w"], "c", pads=[1] * 4)
    node("Relu", ["c"], "r")
    node("QuantizeLinear", ["r", "r_s", "zero"], "r_q")
    node("DequantizeLinear", ["r_q", "r_s", "zero"], "r_d")
    node("GlobalAveragePool", ["r_d"], "g")
    node("Flatten", ["g"], "y")
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
    graph = helper.make_graph(nodes, "net", [image], [scores], constants)
    opsets = [helper.make_opsetid("", 21), *([helper.make_opsetid(CONTRIB, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


@pytest.mark.parametrize(
    ("domain", "activations"), [(CONTRIB, "uint16"), ("", "uint16"), ("", "int16")]
)
def test_an_engine_that_leaves_16_bits_out_is_found_out(tmp_path, domain, activations) -> None:
    path = written(tmp_path / "net.onnx", domain, activations)
    found = {}
    for name in ("onnxruntime", "openvino"):
        if (reason := get_backend(name).missing()) is not None:
            pytest.skip(reason)
        told = [each for each in check_file(path, name, "cpu", {}) if each["rule"] != "note"]
        found[name] = [each for each in told if each["rule"] == "sixteen-bit"]
    assert found["onnxruntime"] == []
    ((worst),) = found["openvino"]
    assert worst["severity"] == "wrong"
    assert worst["message"].startswith(f"{activations} behind a Relu")
    assert "quantization steps off" in worst["message"]


@pytest.mark.parametrize("domain", [CONTRIB, ""])
def test_8_bits_in_either_domain_say_nothing_loud(tmp_path, domain) -> None:
    path = written(tmp_path / "net.onnx", domain, "uint8")
    told = check_file(path, "onnxruntime", "cpu", {})
    assert all(each["severity"] == "note" for each in told)
    assert summarize(path).macs == summarize(written(tmp_path / "o.onnx", "", "uint8")).macs > 0


def test_4_bits_are_called_by_their_name(tmp_path) -> None:
    path = written(tmp_path / "net.onnx", "", "uint8", weight="int4")
    with pytest.raises(ModelError, match="'w_q', got INT4") as caught:
        check_file(path, "onnxruntime", "cpu", {})
    assert "float32 model" in caught.value.hint


def test_an_import_calls_them_quantized_and_not_custom(tmp_path) -> None:
    path = written(tmp_path / "net.onnx", CONTRIB, "uint16")
    with pytest.raises(ModelError, match="quantized already: QuantizeLinear"):
        check_operators(onnx.load(path))
