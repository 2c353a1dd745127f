"""What a Q/DQ file says: scales, zero points and who stands behind a DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph.layers import constant

Q, DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Finding:
    """One place where a file does not obey the rule set.

    Attributes:
        rule: Stable name of the rule, see the module's list.
        node: Name of the ONNX node.
        message: One line: what is there, what comes of it, what to do.
        severity: ``wrong``: on this device the engine refuses the file or can answer something else
            than it says. ``risk``: some engines do, and this one was not or could not be asked.
            ``note``: slower, or less INT8, than it could be.
    """

    rule: str
    node: str
    message: str
    severity: Literal["wrong", "risk", "note"] = "note"


def dequantized(value: ir.Value | None) -> bool:
    """True where a value comes out of a DequantizeLinear."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == DQ


def is_bias(node: ir.Node) -> bool:
    """True for the DequantizeLinear of an INT32 bias."""
    stored = constant(node.inputs[0])
    return stored is not None and stored.dtype == np.int32


def scale_of(node: ir.Node) -> NDArray[np.float32]:
    """The scale of a QuantizeLinear or DequantizeLinear."""
    scale = constant(node.inputs[1])
    return np.ones((), np.float32) if scale is None else np.asarray(scale, np.float32)


def zero_point_of(node: ir.Node) -> NDArray[np.generic]:
    """The zero point; one that is left out is a uint8 zero, or that of the stored integers."""
    zero_point = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero_point is not None:
        return zero_point
    stored = constant(node.inputs[0])
    return np.zeros((), np.uint8 if stored is None else stored.dtype)
