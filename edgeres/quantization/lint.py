"""Explains, before a build, every place where a Q/DQ file does not obey a rule set.

An engine that meets Q/DQ it does not like refuses the file with a message about its own source, or
silently runs a layer in float. Each rule here has a name that stays, and each finding names the
node, what is there, what comes of it and what to do.

Rules:
    activation-dtype      activations have the integer type of the rule set
    activation-scale      one scale per activation tensor
    zero-point            zero points are 0 where the rule set is symmetric; weights always
    scale                 scales are finite, positive and not zero for the engine
    zero-point-dtype      a zero point has the type of the integers that it belongs to
    weight-dtype          weights are int8, stored as integers behind a DequantizeLinear alone
    weight-axis           per-channel weights are scaled along the output channels
    weight-granularity    one scale per channel or per tensor, as the rule set says
    bias                  the bias is float, or int32 with scale ``s_x * s_w``, as the rule set says
    float-input           an op of the rule set reads a float tensor and so falls back to float
    residual              a residual Add takes Q/DQ on the inputs that the rule set says
    relu                  no Q/DQ between a layer and its Relu
    output                the output of an INT8 op is quantized where the engine needs that to fuse
    shared-scale          an op that only moves values has one scale on both sides
    saturation            no two products can leave int16 where the device saturates
    lowest-weight         no weight is -128, whose products leave int16 on Arm without dot products

Layers that are written with integer operators (``QLinearConv`` and its like) are looked at for
their scales and for saturation. What only running an engine can tell is in :mod:`.hazards`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.errors import ModelError
from edgeres.graph.external_data import load_self_contained
from edgeres.graph.layers import (
    PASS_THROUGH,
    RECTIFIERS,
    WEIGHTED,
    constant,
    consumers,
    node_name,
    only_moves,
)
from edgeres.quantization.lint_layers import integer_layer_findings, layer_findings
from edgeres.quantization.placement import only_moved_to_output
from edgeres.quantization.qdq_view import (
    DQ,
    Finding,
    Q,
    dequantized,
    is_bias,
    scale_of,
    zero_point_of,
)
from edgeres.quantization.stored_weight import INTEGER_OPS, called


def lint(qdq: Path, rules: QdqRules) -> tuple[Finding, ...]:
    """All findings in a Q/DQ file under a rule set, in the order of its nodes.

    Raises:
        ModelError: The file is no readable ONNX model.
    """
    return lint_model(_read(qdq), rules)


def load_quantized(path: Path) -> ir.Model | None:
    """Reads a quantized file from elsewhere; ``None`` where nothing in it is quantized.

    Nodes without a name get that of their first output, and weights are no inputs any more.
    Weights are read from plain files beside it only.

    Raises:
        ModelError: The file is no readable ONNX model, or not safe to read.
    """
    model = ir.from_proto(load_self_contained(path))
    ops = {node.op_type for node in model.graph}
    if not ops & {Q, DQ, *INTEGER_OPS}:
        return None
    for node in model.graph:
        node.name = called(node)
    images = [value for value in model.graph.inputs if not value.is_initializer()]
    model.graph.inputs.clear()
    model.graph.inputs.extend(images)
    return model


def _read(path: Path) -> ir.Model:
    try:
        return ir.load(path)
    except Exception as error:  # protobuf and onnx-ir raise many types for a bad file
        raise ModelError(f"{path} is not a readable ONNX model: {error}") from error


def lint_model(model: ir.Model, rules: QdqRules) -> tuple[Finding, ...]:
    """The same for a model in memory."""
    findings: list[Finding] = []
    for node in model.graph:
        if node.op_type in (Q, DQ):
            findings.extend(_quantizer(node, rules))
            continue
        if node.op_type in rules.ops and not _on_integers(node.inputs[0]):
            findings.extend(_inputs(node, rules))
            findings.extend(_output(node, rules))
            if node.op_type in WEIGHTED and not _is_product(node):
                findings.extend(layer_findings(node, rules))
        if node.op_type in RECTIFIERS:
            findings.extend(_rectifier(node, rules))
        elif node.op_type in INTEGER_OPS:
            findings.extend(integer_layer_findings(node, rules))
        if only_moves(node):
            findings.extend(_moved(node))
    return tuple(findings)


def _quantizer(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    name = node_name(node)
    scale = scale_of(node)
    if not np.isfinite(scale).all() or (scale <= 0).any():
        text = "a scale is not positive and finite; engines refuse it. Calibrate again."
        yield Finding("scale", name, text, "wrong")
    elif (scale < np.finfo(np.float32).tiny).any():
        text = (
            f"a scale of {scale.min():.3g} is denormal, which CPUs take for zero. Calibrate again."
        )
        yield Finding("scale", name, text, "wrong")
    elif (scale < rules.least_scale).any() and not is_bias(node):
        yield Finding(
            "scale",
            name,
            f"{rules.name} may hold a scale of {scale.min():.3g} as zero. "
            f"Use at least {rules.least_scale:.3g}.",
        )
    stored = constant(node.inputs[0])
    zero = zero_point_of(node)
    integers = _integers(node)
    if integers is not None and integers != zero.dtype:
        text = f"the zero point is {zero.dtype}, the integers are {integers}: engines refuse that."
        yield Finding("zero-point-dtype", name, text, "wrong")
    if stored is not None:
        if zero.any():
            yield Finding("zero-point", name, "a weight or bias has a zero point other than 0.")
        return
    if scale.size > 1:
        yield Finding(
            "activation-scale", name, "an activation has a scale per channel; give it one."
        )
    others = rules.other_activations if rules.others_may_be_faster else frozenset()
    if rules.products == "symmetric" and not zero.any():
        others |= {"int8"}
    if str(zero.dtype) not in (rules.activation_dtype, *others):
        yield Finding(
            "activation-dtype",
            name,
            f"activations of {rules.name} are {rules.activation_dtype}, this one is {zero.dtype}.",
        )
    if rules.activation_symmetric and zero.any():
        yield Finding(
            "zero-point",
            name,
            f"{rules.name} takes symmetric activations; the zero point is {int(zero.flat[0])}. "
            "Quantize under this rule set.",
        )


def _integers(node: ir.Node) -> np.dtype[np.generic] | None:
    """Type of the integers that a DequantizeLinear reads, where the file itself tells."""
    value = node.inputs[0]
    stored = constant(value)
    producer = None if value is None else value.producer()
    if node.op_type != DQ or (stored is None and (producer is None or producer.op_type != Q)):
        return None
    if stored is not None:
        return stored.dtype
    assert producer is not None
    return None if "output_dtype" in producer.attributes else zero_point_of(producer).dtype


def _on_integers(value: ir.Value | None) -> bool:
    """True for what an integer operator gives, or a moving op makes of that."""
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in PASS_THROUGH:
        producer = None if producer.inputs[0] is None else producer.inputs[0].producer()
    return producer is not None and (
        producer.op_type in INTEGER_OPS | {Q} or producer.op_type.startswith("QLinear")
    )


def _inputs(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    name = node_name(node)
    if node.op_type == "Add":
        yield from _residual(node, rules)
        return
    if _is_product(node):
        count = sum(dequantized(value) for value in node.inputs)
        if rules.products != "float" and count < 2:
            yield Finding(
                "float-input",
                name,
                f"{2 - count} of 2 inputs of this MatMul are float tensors, so it runs in float. "
                "Put Q/DQ before both.",
            )
        second = node.inputs[1].producer() if node.inputs[1] is not None else None
        if rules.products == "symmetric" and count == 2 and second is not None:
            dtype = zero_point_of(second).dtype
            if dtype != np.int8:
                yield Finding(
                    "activation-dtype",
                    name,
                    f"the second factor of this MatMul is {dtype}, so it runs in float. "
                    "Make it int8.",
                )
        return
    if not dequantized(node.inputs[0]) and constant(node.inputs[0]) is None:
        yield Finding(
            "float-input",
            name,
            f"{node.op_type} reads a float tensor and runs in float. Put Q/DQ before it.",
        )


def _is_product(node: ir.Node) -> bool:
    """True for a MatMul of two tensors that are both computed, Q/DQ or not."""
    return node.op_type == "MatMul" and all(map(_is_computed, node.inputs))


def _is_computed(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    while producer is not None and producer.op_type in (Q, DQ):
        value = producer.inputs[0]
        producer = None if value is None else value.producer()
    return constant(value) is None


def _residual(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    if any(constant(value) is not None and not dequantized(value) for value in node.inputs):
        return
    count = sum(dequantized(value) for value in node.inputs)
    if rules.residual == "both" and count < 2:
        yield Finding(
            "residual",
            node_name(node),
            f"{2 - count} of 2 inputs of the Add are float, so it runs in float. "
            f"{rules.name} takes Q/DQ on both.",
        )
    if rules.residual == "skip" and count != 1:
        state = "both inputs" if count == 2 else "no input"
        yield Finding(
            "residual",
            node_name(node),
            f"{state} of the Add behind Q/DQ, so it cannot join the convolution before it. "
            f"{rules.name} takes Q/DQ on the skip input only.",
        )


def _output(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    if not rules.quantize_outputs or node.op_type in WEIGHTED - {"Conv"}:
        return
    value = node.outputs[0]
    while len(uses := consumers(value)) == 1 and uses[0][0].op_type in RECTIFIERS:
        value = uses[0][0].outputs[0]
    if not uses or value.is_graph_output() or only_moved_to_output(value):
        return
    if any(reader.op_type != Q for reader, _ in uses):
        yield Finding(
            "output",
            node_name(node),
            f"the output of this {node.op_type} is read in float, and {rules.name} fuses only "
            "DQ -> op -> Q. Put Q/DQ behind it.",
        )


def _rectifier(node: ir.Node, rules: QdqRules) -> Iterator[Finding]:
    value = node.inputs[0]
    if rules.quantize_before_relu or not dequantized(value):
        return
    before = _through_qdq(value)
    producer = None if before is None else before.producer()
    if producer is None or before is None:
        return
    readers = [reader for reader, _ in consumers(before) if reader.op_type != Q]
    shared = value is not None and len(consumers(value)) > 1
    if producer.op_type in rules.ops and not shared and not readers:
        yield Finding(
            "relu",
            node_name(node),
            f"Q/DQ stands between {producer.op_type} {producer.name} and its {node.op_type}, so "
            "they cannot fuse. Put it behind.",
        )


def _moved(node: ir.Node) -> Iterator[Finding]:
    before = node.inputs[0]
    after = [reader for reader, _ in consumers(node.outputs[0]) if reader.op_type == Q]
    source = None if before is None else before.producer()
    if source is None or source.op_type != DQ or not after:
        return
    if not all(
        np.array_equal(scale_of(source), scale_of(quantizer))
        and np.array_equal(zero_point_of(source), zero_point_of(quantizer))
        for quantizer in after
    ):
        yield Finding(
            "shared-scale",
            node_name(node),
            f"{node.op_type} only moves values but has other scales before and behind it, so "
            "engines requantize or run it in float. Use one.",
        )


def _through_qdq(value: ir.Value | None) -> ir.Value | None:
    """The float tensor before a Q/DQ pair."""
    dequantize = None if value is None else value.producer()
    inner = None if dequantize is None else dequantize.inputs[0]
    quantize = None if inner is None else inner.producer()
    return None if quantize is None or quantize.op_type != Q else quantize.inputs[0]
