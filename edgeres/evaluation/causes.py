"""Why a layer stands out: only what was checked for this very layer is said.

An engine that differs from its source is held against the findings about that source on this device
(:mod:`edgeres.evaluation.qdq_check`): weights whose products can leave int16 where sums clip, a
pool that the engine was seen to compute otherwise. A layer whose weights cannot saturate is never
said to.

A layer that loses too much by quantization is held against the reference: its weights, how much of
its output lies beyond the range that the file gives it, and how coarse its steps are.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.evaluation.compared import Model
from edgeres.evaluation.distances import LayerDistance
from edgeres.evaluation.qdq_check import findings_of
from edgeres.graph.layers import WEIGHTED, constant, node_name
from edgeres.quantization.qdq_view import DQ, Finding, scale_of, zero_point_of
from edgeres.quantization.stored_weight import stored_weight

#: A factor this far from 1 is no rounding error, at any number of levels that is of use.
_FACTOR = 0.1
#: Channels point the same way where they differ by a factor only.
_SAME_WAY = 0.9
_CLIPPED = 0.01
_COARSE = 0.5
#: A factor explains what differs if without it the noise is less than a quarter.
_EXPLAINS = 0.25
_UNKNOWN = "unknown"


class Evidence:
    """What is known about the two models of a comparison; nothing is looked up before it is asked.

    Args:
        reference: The first.
        candidate: The second.
    """

    def __init__(self, reference: Model, candidate: Model) -> None:
        self._reference = reference
        self._candidate = candidate

    def of_engine(self, layer: LayerDistance, *, candidate: bool) -> tuple[str, str]:
        """Why an engine differs from its source at a layer.

        Args:
            layer: The layer.
            candidate: Whether it is the candidate's engine, else the reference's.

        Returns:
            Names of the rules that it breaks, or ``unknown``; and a sentence.
        """
        model = self._candidate if candidate else self._reference
        findings = self._candidate_findings if candidate else self._reference_findings
        wrong = [f for f in findings if f.severity == "wrong" and f.node in layer.nodes]
        if wrong:
            rules = ", ".join(dict.fromkeys(finding.rule for finding in wrong))
            return rules, " ".join(finding.message for finding in wrong)
        failed = next((finding.message for finding in findings if finding.rule == "check"), "")
        text = f"No cause was found: {failed or _acquittal(model, layer)}"
        return _UNKNOWN, f"{text} Please report it with the ONNX file."

    def of_quantization(self, layer: LayerDistance) -> tuple[str, str]:
        """Why a layer alone loses much of the signal; as :meth:`of_engine`."""
        factors = weight_factors(self._reference.graph, self._candidate.graph, layer.node)
        off = np.abs(factors - 1.0) > _FACTOR
        if off.any():
            ratio = f"{np.median(factors[off]):.2f} times those of the reference"
            return "weight-scale", (
                f"its weights are {ratio} in {int(off.sum())} of {len(factors)} output channels: "
                "their scale is wrong."
            )
        if layer.clipped is not None and layer.clipped > _CLIPPED:
            return "range", (
                f"{100 * layer.clipped:.0f} % of its values lie beyond the range that its Q/DQ "
                "gives them: the range is too small."
            )
        if abs(layer.gain - 1.0) > _FACTOR and layer.gain_explains > 1 - _EXPLAINS:
            return "activation-scale", (
                f"its output is {layer.gain:.2f} times what it should be, and its weights are "
                "right: a scale before or behind it is wrong."
            )
        if layer.coarseness is not None and layer.coarseness > _COARSE:
            return "range", (
                f"one quantization step is {layer.coarseness:.1f} times its values' root mean "
                "square: the range is too large."
            )
        return _UNKNOWN, (
            "its weights and ranges are as they should be, so INT8 itself is too coarse for it."
        )

    @cached_property
    def _reference_findings(self) -> tuple[Finding, ...]:
        return _findings(self._reference)

    @cached_property
    def _candidate_findings(self) -> tuple[Finding, ...]:
        return _findings(self._candidate)


def weight_factors(reference: ir.Model, candidate: ir.Model, name: str) -> NDArray[np.float64]:
    """By which factor each output channel of a layer's weight differs from the reference's.

    Returns:
        ``(M,) float64``; empty where the two have no weights that can be compared, and 1 for a
        channel that differs by more than a factor.
    """
    first, second = (_weight(model, name) for model in (reference, candidate))
    if first is None or second is None or first.shape != second.shape:
        return np.ones(0)
    power = np.square(first).sum(axis=1)
    both = (first * second).sum(axis=1)
    lengths = np.sqrt(power * np.square(second).sum(axis=1))
    alike = both > _SAME_WAY * lengths
    return np.where(alike & (power > 0), both / np.where(power > 0, power, 1.0), 1.0)


def _findings(model: Model) -> tuple[Finding, ...]:
    engine = model.engine
    if engine is None:
        return ()
    return findings_of(model.onnx, engine.backend, engine.device, engine.options)


def _acquittal(model: Model, layer: LayerDistance) -> str:
    """What speaks against saturation at a layer."""
    node = _node(model.graph, layer.node)
    weight = None if node is None else stored_weight(node)
    proof = None if weight is None else weight.saturation
    if proof is None:
        return "it has no INT8 weights that could saturate."
    if proof.safe:
        return (
            f"pairs of its weights add up to {proof.lowest} to {proof.highest}, so no sum can "
            "saturate."
        )
    return "INT8 sums are exact on this device, so it is not saturation."


def _node(model: ir.Model, name: str) -> ir.Node | None:
    return next((node for node in model.graph if node_name(node) == name), None)


def _weight(model: ir.Model, name: str) -> NDArray[np.float64] | None:
    """``(M, K)`` weight of a layer as the graph computes with it."""
    node = _node(model, name)
    if node is None or node.op_type not in WEIGHTED:
        return None
    value = node.inputs[1]
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == DQ:
        content = _dequantized(producer)
    else:
        stored = constant(value)
        content = None if stored is None else stored.astype(np.float64)
    if content is None or content.ndim < 2:
        return None
    if node.op_type == "Conv":
        return content.reshape(len(content), -1)
    rows_first = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return content if rows_first else content.T


def _dequantized(node: ir.Node) -> NDArray[np.float64] | None:
    integers, scale, zero = constant(node.inputs[0]), scale_of(node), zero_point_of(node)
    if integers is None:
        return None
    shape = [1] * integers.ndim
    if scale.size > 1:
        shape[node.attributes.get_int("axis", 1)] = scale.size
    centred = integers.astype(np.float64) - np.ravel(zero).astype(np.float64).reshape(
        shape if zero.size > 1 else [1] * integers.ndim
    )
    return np.asarray(centred * np.ravel(scale).astype(np.float64).reshape(shape))
