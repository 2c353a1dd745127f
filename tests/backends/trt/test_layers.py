"""Layer lists in every dress that TensorRT gives them, and what they mean."""

from __future__ import annotations

import json

import pytest

from edgeres.backends.tensorrt.layerlist import read_inspector, read_log
from edgeres.backends.tensorrt.layers import (
    LayerRecord,
    assign_products,
    records_from_json,
    records_to_json,
    to_layer_infos,
)
from edgeres.errors import ArtefactError

ROW = "Format: (Linear) Row major linear format"


def rtx_tensor(name: str, dimensions: str, kind: str) -> str:
    strides = "Strides: [1], StrideOrder: [0]"
    return f"{{ Name: {name}, Dimensions: {dimensions}, {strides}, Datatype: {kind}, {ROW} }}"


def rtx_line(name: str, op: str, data: str, weights: str, out: str, nodes: list[str]) -> str:
    """One line of TensorRT for RTX's verbose build log."""
    constants = [rtx_tensor("scale", "[1]", "Float")]
    if weights:
        constants.insert(0, rtx_tensor("w", "[8,8,3,3]", weights))
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {op}, Inputs: [ {rtx_tensor('x', '[-1,8,4,4]', data)}], "
        f"Constants: [ {', '.join(constants)}], "
        f"Outputs: [ {rtx_tensor('y', '[-1,8,4,4]', out)}], "
        f"TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: {metadata}"
    )


def trt_line(name: str, data: str, weights: str, metadata: str = "") -> str:
    """One line of TensorRT 8.6's or 10's verbose build log."""
    return (
        f"Name: {name}, LayerType: CaskConvolution, Inputs: [ {{ Name: x, Location: Device, "
        f"Dimensions: [1,8,4,4], Format/Datatype: {data} }}], Outputs: [ {{ Name: y, Location: "
        "Device, Dimensions: [1,8,4,4], Format/Datatype: Row major linear FP32 }], ParameterType: "
        "Convolution, Kernel: [3,3], PaddingMode: kEXPLICIT_ROUND_DOWN, OutMaps: 8, Groups: 1, "
        f'Weights: {{"Type": "{weights}", "Count": 576}}, Bias: {{"Type": "Float", "Count": 8}}, '
        "HasBias: 1, HasReLU: 1, TacticName: sm80_xmma_fprop_i8i8, TacticValue: 0x1, "
        f"StreamId: 0, Metadata: {metadata}"
    )


def test_rtx_log() -> None:
    lines = [
        "Layers:",
        "Name: __mye1_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], "
        "TacticName: , StreamId: 0, Metadata: ",
        rtx_line("conv1_myl0_1", "correlation", "Int8", "Int8", "Float", ["conv1", "conv1_dq"]),
        rtx_line("__myl_MulAddRelu", "kgen", "Float", "", "Int8", ["conv1", "relu", "relu_q"]),
        "",
        "I/O Tensors:",
        " Name: input, IOMode: Input, DataType: Float, Dimensions: [-1,3,64,64]",
    ]
    records = read_log(["\n".join(lines)])
    assert [record.op for record in records] == ["shape_call", "correlation", "kgen"]
    conv = records[1]
    assert (conv.name, conv.inputs, conv.constants, conv.outputs) == (
        "conv1_myl0_1",
        ("int8",),
        ("int8",),
        ("float32",),
    )
    assert conv.nodes == ("conv1", "conv1_dq")
    assert conv.tactic == ""
    assert [record.precision for record in records] == ["none", "int8", "float32"]
    assert [info.name for info in to_layer_infos(records)] == ["conv1_myl0_1", "__myl_MulAddRelu"]


@pytest.mark.parametrize(
    ("data", "weights", "precision"),
    [
        ("Thirty-two wide channel vectorized row major Int8 format", "Int8", "int8"),
        ("Row major Int8 format", "Int8", "int8"),
        ("Channel major FP16 format where channel % 8 == 0", "Half", "float16"),
        ("Half", "Half", "float16"),
        ("Row major linear FP32", "Float", "float32"),
        ("Row major linear FP32", "Int8", "float32"),
        ("Row major Int8 format", "Float", "float32"),
    ],
)
def test_tensorrt_log(data: str, weights: str, precision: str) -> None:
    line = trt_line("conv1 + relu", data, weights, "[ONNX Layer: conv1]\x1f[ONNX Layer: relu]")
    (record,) = read_log([f"Layers:\n{line}"])
    assert record.op == "CaskConvolution"
    assert record.is_product
    assert record.nodes == ("conv1", "relu")
    assert record.precision == precision


def test_without_metadata_nodes_are_found_in_the_name() -> None:
    line = trt_line("w + w_q + layer1/conv1 + PWN(relu)", "Row major Int8 format", "Int8")
    (record,) = read_log([f"Layers:\n{line}"], ["layer1/conv1", "relu", "fc"])
    assert record.nodes == ("layer1/conv1",)


def inspector_layer(**changes: object) -> dict[str, object]:
    layer: dict[str, object] = {
        "Name": "conv1 + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [1, 8, 4, 4], "Format/Datatype": "Int8"}],
        "Outputs": [{"Name": "y", "Dimensions": [1, 8, 4, 4], "Format/Datatype": "Half"}],
        "ParameterType": "Convolution",
        "Weights": {"Type": "Int8", "Count": 576},
        "TacticName": "sm80_xmma_fprop_i8i8",
        "Metadata": "[ONNX Layer: conv1]\x1f[ONNX Layer: relu]",
    }
    return layer | changes


@pytest.mark.parametrize(
    "network",
    [
        {"Bindings": ["input", "logits"]},
        {"I/O Tensors": [{"Name": "input", "IOMode": "Input", "DataType": "Float"}]},
    ],
    ids=["before-11", "from-11"],
)
def test_inspector_json(network: dict[str, object]) -> None:
    (record,) = read_inspector(json.dumps({"Layers": [inspector_layer()], **network}))
    assert record == LayerRecord(
        name="conv1 + relu",
        op="CaskConvolution",
        inputs=("int8",),
        constants=("int8",),
        outputs=("float16",),
        nodes=("conv1", "relu"),
        tactic="sm80_xmma_fprop_i8i8",
    )
    assert record.precision == "int8"


def test_weight_only_quantization_is_not_int8() -> None:
    half = [{"Name": "x", "Dimensions": [1, 64], "Format/Datatype": "Half"}]
    weights = [
        {"Name": "w", "Dimensions": [64, 10], "Datatype": "Int8"},
        {"Name": "alpha", "Dimensions": [1], "Datatype": "Float"},
    ]
    layer = inspector_layer(LayerType="gemm", Inputs=half, Constants=weights, Weights=None)
    (record,) = read_inspector(json.dumps({"Layers": [layer], "I/O Tensors": []}))
    assert record.constants == ("int8",)
    assert record.precision == "float16"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "unexpected"),
        ("[]", "no list of the network's tensors"),
        ('{"Layers": []}', "no list of the network's tensors"),
        ('{"Bindings": []}', "no list of layers"),
        ('{"Bindings": [], "Layers": ["conv1 + relu"]}', "only the names"),
    ],
)
def test_inspector_says_something_else(text: str, expected: str) -> None:
    with pytest.raises(ArtefactError, match=expected):
        read_inspector(text)


def test_a_product_counts_once_and_for_the_layer_that_multiplies() -> None:
    op_types = {"conv1": "Conv", "relu": "Relu", "relu_q": "QuantizeLinear", "fc": "Gemm"}
    records = [
        LayerRecord("__myl_Mul", "kgen", ("float32",), (), ("int8",), ("conv1", "relu")),
        LayerRecord("conv1_myl", "correlation", ("int8",), ("int8",), ("float32",), ("conv1",)),
        LayerRecord("__myl_Fc", "runtime_fusion", ("float32",), (), ("float32",), ("fc",)),
        LayerRecord("__myl_Add", "kgen", ("float32",), (), ("float32",), ("fc", "relu_q")),
    ]
    assigned = assign_products(records, op_types)
    assert [record.nodes for record in assigned] == [("relu",), ("conv1",), ("fc",), ("relu_q",)]


def test_records_survive_json() -> None:
    records = read_log(["Layers:\n" + rtx_line("c", "gemm", "Int8", "Int8", "Half", ["fc"])])
    assert records_from_json(json.loads(json.dumps(records_to_json(records)))) == records
    with pytest.raises(ArtefactError, match="cannot be read"):
        records_from_json([{"op": "gemm"}])
