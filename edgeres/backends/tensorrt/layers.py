"""Layers of a built TensorRT engine: in which precision each runs, and what it computes.

:mod:`edgeres.backends.tensorrt.layerlist` reads TensorRT's own lists into :class:`LayerRecord`;
here is what the records mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeres.backends.base import LayerInfo
from edgeres.errors import ArtefactError

# Layer types that multiply and add: ``correlation`` and ``gemm`` are TensorRT for RTX's words for
# convolution and matrix product, ``Cask*`` and the rest TensorRT's.
_PRODUCT = re.compile(r"correlation|conv|gemm|matmul|matrix|fully", re.IGNORECASE)
_PRODUCT_OPS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
# Several nodes compiled into one layer whose type does not tell what is inside.
_FUSED = re.compile(r"fusion|foreignnode|myelin|dla", re.IGNORECASE)
_POINTWISE = re.compile(r"kgen|pointwise|eltwise|elementwise|activation|scale", re.IGNORECASE)

UNTOLD = "unknown"
_WIDEST_FIRST = ("float32", "bfloat16", "float16", "fp8", "int64", "int32", "uint8", "int8")


@dataclass(frozen=True)
class LayerRecord:
    """One layer of an engine in TensorRT's own words.

    Attributes:
        name: TensorRT's name for it.
        op: TensorRT's layer type, e.g. ``correlation`` or ``CaskConvolution``.
        inputs: Types of the data inputs, in order, e.g. ``("int8",)``.
        constants: Types of weights and other constants with more than one dimension.
        outputs: Types of the outputs.
        nodes: ONNX nodes that TensorRT names for the layer.
        tactic: Name of the chosen kernel where TensorRT tells it.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    tactic: str = ""

    @property
    def is_product(self) -> bool:
        """True for a layer of multiply-adds: a convolution or a matrix product."""
        return bool(_PRODUCT.search(self.op))

    @property
    def precision(self) -> str:
        """Type that the arithmetic runs in.

        What a DLA does inside of a layer is not told, and its inputs and outputs do not show it.

        A product is INT8 only if its data and its weights both are; INT8 weights alone (weight-only
        quantization) multiply in float. Any other layer is as wide as the widest type it touches.
        """
        if self.op.upper().startswith("DLA"):
            return UNTOLD
        if self.is_product and self.inputs:
            operands = (*self.inputs[1:], *self.constants)
            if self.inputs[0] == "int8":
                return "int8" if "int8" in operands else _widest(operands or self.inputs)
            return self.inputs[0]
        touched = (*self.inputs, *self.outputs)
        if _POINTWISE.search(self.op):
            touched = (*touched, *self.constants)
        return _widest(touched)


def _widest(types: Iterable[str]) -> str:
    found = set(types)
    return next((word for word in _WIDEST_FIRST if word in found), "none")


def product_nodes(op_types: Mapping[str, str]) -> dict[str, str]:
    """The nodes that multiply and add, with their op types."""
    return {name: op for name, op in op_types.items() if op in _PRODUCT_OPS}


def assign_products(
    records: Sequence[LayerRecord], op_types: Mapping[str, str]
) -> list[LayerRecord]:
    """Leaves each Conv and Gemm node only with the layer that does its multiply-adds.

    TensorRT names a convolution's node for every layer that carries a part of it: the product
    itself, and the float kernels that scale, add the bias or quantize around it. Precision is a
    question about the product alone.

    Args:
        records: Layers as read.
        op_types: ONNX op type by node name.
    """
    products = set(product_nodes(op_types))
    owner: dict[str, tuple[tuple[bool, bool, bool], int]] = {}
    for index, record in enumerate(records):
        for node in products.intersection(record.nodes):
            claim = (
                record.is_product,
                bool(_FUSED.search(record.op)),
                record.name.startswith(node),
            )
            if node not in owner or claim > owner[node][0]:
                owner[node] = (claim, index)
    return [
        replace(
            record,
            nodes=tuple(
                node
                for node in record.nodes
                if node not in products or (node in owner and owner[node][1] == index)
            ),
        )
        for index, record in enumerate(records)
    ]


def to_layer_infos(records: Sequence[LayerRecord]) -> list[LayerInfo]:
    """The layers as every backend reports them; shape computations on the host are left out."""
    return [
        LayerInfo(name=record.name, op=record.op, precision=record.precision, nodes=record.nodes)
        for record in records
        if record.inputs or record.outputs
    ]


def records_to_json(records: Sequence[LayerRecord]) -> list[dict[str, Any]]:
    """The records as JSON values, without empty fields."""
    return [{key: value for key, value in asdict(record).items() if value} for record in records]


def records_from_json(values: Sequence[Mapping[str, Any]]) -> list[LayerRecord]:
    """The records back from JSON values.

    Raises:
        ArtefactError: The values are not records.
    """

    def words(entry: Mapping[str, Any], key: str) -> tuple[str, ...]:
        return tuple(str(word) for word in entry.get(key, ()))

    try:
        return [
            LayerRecord(
                name=str(entry["name"]),
                op=str(entry["op"]),
                inputs=words(entry, "inputs"),
                constants=words(entry, "constants"),
                outputs=words(entry, "outputs"),
                nodes=words(entry, "nodes"),
                tactic=str(entry.get("tactic", "")),
            )
            for entry in values
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtefactError(
            f"the list of layers beside the plan cannot be read ({error!r}).",
            hint="Build the engine again.",
        ) from error
