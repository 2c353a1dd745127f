"""Opset and operator limits of TensorRT 8.6, 10, 11 and for RTX: what each gets, it can read.

Of 8.6, 10.1 and 10.15 there are the tables that their parsers come with. Of 11 no table could be
read: 10.15's stands for it; NVIDIA's opset guide says 9 to 25 for 11. TensorRT for RTX 1.7.1 is no
table but the real parser.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from edgeres.backends import get_backend
from edgeres.backends.tensorrt.form import Form, write_form
from edgeres.backends.tensorrt.graph import index_graph

from .onnx_parsers import NEWEST_OPSET, complaints, operators, table_complaints

FORMS: dict[str, tuple[Form, ...]] = {
    "8.6": ("opset17",),
    "10": ("source", "float16"),
    "11": ("source", "float16"),
    "rtx": ("source", "float16"),
}
"""What `form.choose_form` takes for each version."""
MATRIX = [(version, form) for version, forms in FORMS.items() for form in forms]


def real_complaints(model: onnx.ModelProto) -> list[str]:
    """What the parser of TensorRT for RTX says of a file."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model.SerializeToString()):
        return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [f"{error.node_name()}: operator {error.node_operator()}" for error in errors]


READ: dict[str, Callable[[onnx.ModelProto], list[str]]] = {
    "8.6": complaints,
    "10": lambda model: table_complaints(model, "10"),
    "11": lambda model: table_complaints(model, "11"),
    "rtx": real_complaints,
}


@pytest.mark.parametrize(("version", "form"), MATRIX)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
@pytest.mark.parametrize("quantized", [True, False])
def test_what_each_version_gets_it_can_read(
    qdq_net: Callable[..., Any],
    float_net: Callable[..., Any],
    tmp_path: Path,
    version: str,
    form: Form,
    stem: str,
    pool: str,
    quantized: bool,
) -> None:
    net = (qdq_net if quantized else float_net)(stem=stem, pool=pool)
    write_form(index_graph(net.model(), tmp_path / "net.onnx"), form, tmp_path / "form.onnx")
    assert READ[version](onnx.load(tmp_path / "form.onnx")) == []


@pytest.mark.parametrize("version", FORMS)
def test_an_operator_that_a_version_lacks_is_seen(
    float_net: Callable[..., Any], version: str
) -> None:
    model = float_net().model()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Bernoulli"
    if version == "8.6":
        model.opset_import[0].version = 17
    assert f"{relu.name}: operator Bernoulli" in READ[version](model)


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
def test_an_opset_that_a_version_does_not_know_is_seen(
    float_net: Callable[..., Any], version: str
) -> None:
    net = float_net()
    net.opset = NEWEST_OPSET[version] + 1
    assert f"opset {net.opset}" in table_complaints(net.model(), version)


@pytest.mark.parametrize("version", ["10", "11"])
@pytest.mark.parametrize("form", ["source", "float16"])
def test_a_limit_that_is_broken_is_seen(
    qdq_net: Callable[..., Any], tmp_path: Path, version: str, form: Form
) -> None:
    net = qdq_net(stem="imagenet")
    write_form(index_graph(net.model(), tmp_path / "net.onnx"), form, tmp_path / "form.onnx")
    model = onnx.load(tmp_path / "form.onnx")
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    pool.attribute.append(helper.make_attribute("dilations", [2, 2]))
    assert table_complaints(model, version) == [f"{pool.name}: dilations"]


def test_all_that_is_quantized_is_in_each_table() -> None:
    wanted = get_backend("tensorrt").qdq_rules("cuda:0").ops | {"Relu", "MaxPool", "Flatten"}
    for version in NEWEST_OPSET:
        assert wanted <= set(operators(version)), version
    lost = set(operators("10")) - set(operators("11"))
    assert not lost, "a later parser reads what an earlier one did"


def test_the_real_parser_knows_the_operators_of_the_table() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(0), logger)
    unknown = {name for name in operators("11") if not parser.supports_operator(name)}
    assert unknown == {"DeformConv"}, "that one is a plugin, which TensorRT for RTX leaves out"
    assert not parser.supports_operator("QLinearConv")
