"""Brings a foreign ONNX file into the normal form; runs in a child process under limits.

Stages: read safely, check, upgrade the opset, normal form, parity against the original as it came.
The file is written only after the gate has passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes import common

from edgeres.errors import EdgeResError, GateError, ModelError, StageError, one_line
from edgeres.exporting.fold_constants import FoldConstants
from edgeres.exporting.foreign_checks import (
    Layout,
    check_operators,
    check_scores,
    check_sizes,
    choose_output,
    set_image_shape,
)
from edgeres.exporting.original import Original, before_activation, expose
from edgeres.exporting.parity import BATCH_SIZES, F32, ParityReport, Tolerance, check_parity
from edgeres.exporting.passes import is_finite, normal_form, run_pass, to_bytes
from edgeres.graph.external_data import load_self_contained
from edgeres.graph.shapes import set_batch
from edgeres.system.child import JsonValue

_LISTED = 5


def normalize_file(
    source: Path,
    out: Path,
    *,
    opset: int,
    layout: Layout,
    sample_shape: Sequence[int] | None,
    output: str | None,
    images: F32 | None,
    tolerance: Tolerance,
    max_bytes: int,
) -> dict[str, Any]:
    """Reads ``source``, writes the normal form to ``out`` and tells about it in JSON values.

    See :func:`edgeres.exporting.import_onnx.import_onnx` for the arguments;
    ``max_bytes`` bounds the weights and each tensor for one image.

    Raises:
        ModelError: The model is not safe, or not a float32 image classifier.
        StageError: It asks for too much memory, or a pass failed.
        GateError: The normal form computes something else than the original.
    """
    original = load_self_contained(source, max_bytes=max_bytes)
    _check_well_formed(original)
    if original.functions:
        original = onnx.inliner.inline_local_functions(original)
    source_opset = check_operators(original)
    notes: list[JsonValue] = []
    if source_opset < opset:
        notes.append(f"opset {source_opset} upgraded to {opset}")
    model = ir.from_proto(_upgraded(original, source_opset, opset))
    choose_output(model, output)
    scores = model.graph.outputs[0].name or ""
    batch = _free_fixed_batch(model)
    sample = set_image_shape(model, layout, sample_shape)
    notes += _drop_unused(model)
    set_batch(model, 1)
    check_sizes(model, max_bytes)
    run_pass(FoldConstants(), model)  # may tell more shapes
    check_sizes(model, max_bytes)
    classes = check_scores(model)
    if len(list(model.graph.outputs[0].shape or ())) == 4:
        _flatten_scores(model)
        notes.append("scores (N, K, 1, 1) flattened to (N, K)")
    reference = Original(original, scores, sample, batch)
    content, parity = _normalize(model, reference, sample, images, tolerance, notes)
    out.write_bytes(content)
    return _described(content) | {
        "source_opset": source_opset,
        "sample_shape": list(sample),
        "num_classes": classes,
        "notes": notes,
        "parity": {**asdict(parity), "batch_sizes": list(parity.batch_sizes)},
    }


def _check_well_formed(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the C++ checker raises types of its own
        raise ModelError(
            f"The file is no valid ONNX model: {one_line(error)}.",
            hint="Export it again.",
        ) from error


def _upgraded(model: onnx.ModelProto, source_opset: int, opset: int) -> onnx.ModelProto:
    """The model in a later opset, by ONNX's own version converter; never an earlier one."""
    if source_opset >= opset:
        return model
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the C++ converter raises types of its own
        raise ModelError(
            f"The model cannot be upgraded from opset {source_opset} to {opset}: "
            f"{one_line(error)}.",
            hint=f"Export it again with opset {opset}.",
        ) from error


def _free_fixed_batch(model: ir.Model) -> int | None:
    """The batch that a model insists on, or ``None``; Reshapes to a batch above 1 are freed.

    A Reshape to ``(B, ...)`` then copies the batch from its input (0 in ONNX's Reshape), so that
    the model can be looked at for a batch of one. A batch of 1 needs no such help.
    """
    batch = next((next(iter(v.shape)) for v in model.graph.inputs if v.shape), None)
    if not isinstance(batch, int):
        return None
    if batch == 1:
        return batch
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        target = (
            node.inputs[1].const_value if node.op_type == "Reshape" and node.inputs[1] else None
        )
        if target is not None and target.size > 1 and int(target.numpy()[0]) == batch:
            shape = ir.tensor(np.array([0, *target.numpy()[1:]], np.int64))
            constant = ir.Node("", "Constant", [], attributes=[ir.AttrTensor("value", shape)])
            model.graph.insert_before(node, constant)
            node.replace_input_with(1, constant.outputs[0])
    return batch


def _drop_unused(model: ir.Model) -> list[JsonValue]:
    """Removes what does not lead to the output, and tells of values in it that are not numbers."""
    before = set(model.graph.initializers)
    bad = [name for name in before if not is_finite(model.graph.initializers[name])]
    common.RemoveUnusedNodesPass()(model)
    gone = sorted(set(bad) - set(model.graph.initializers))
    if not gone:
        return []
    more = f" and {len(gone) - _LISTED} more" if len(gone) > _LISTED else ""
    return [
        f"weights that nothing uses hold NaN or infinite values and are left out: "
        f"{', '.join(gone[:_LISTED])}{more}"
    ]


def _flatten_scores(model: ir.Model) -> None:
    graph = model.graph
    scores = graph.outputs[0]
    name, shape = scores.name, list(scores.shape or ())
    flatten = ir.Node("", "Flatten", [scores], attributes=[ir.AttrInt64("axis", 1)], name="flatten")
    graph.append(flatten)
    scores.name = f"{name}.unflattened"
    flat = flatten.outputs[0]
    flat.name, flat.type, flat.shape = name, scores.type, ir.Shape(shape[:2])
    graph.outputs[0] = flat


def _normalize(
    model: ir.Model,
    reference: Original,
    sample: Sequence[int],
    images: F32 | None,
    tolerance: Tolerance,
    notes: list[JsonValue],
) -> tuple[bytes, ParityReport]:
    """The normal form with a free batch, or with a batch of 1 where the network insists on one."""

    def attempt(candidate: ir.Model, *, dynamic: bool) -> tuple[bytes, ParityReport]:
        normal_form(candidate, dynamic_batch=dynamic)
        content = to_bytes(candidate)
        watched, names = expose(onnx.ModelProto.FromString(content))
        report = check_parity(
            lambda batch: dict(zip(names, reference.run(batch), strict=False)),
            watched,
            sample_shape=sample,
            batch_sizes=BATCH_SIZES if dynamic else (1,),
            images=images,
            tolerance=tolerance,
        )
        return content, report

    reason: EdgeResError
    try:
        return attempt(model.clone(), dynamic=True)
    except (ModelError, StageError, GateError) as error:
        reason = error
    result = attempt(model, dynamic=False)
    notes.append(f"the batch stays 1: {reason.message}")
    return result


def _described(content: bytes) -> dict[str, JsonValue]:
    """What the written file says about itself."""
    model = onnx.ModelProto.FromString(content)
    image, scores = model.graph.input[0], model.graph.output[0]
    logits = before_activation(model, scores.name)
    last = {name: node.op_type for node in model.graph.node for name in node.output}
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "opset": next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        "input_name": image.name,
        "output_name": scores.name,
        "dynamic_batch": not image.type.tensor_type.shape.dim[0].HasField("dim_value"),
        "ends_in": last[scores.name].lower() if logits is not None else "logits",
        "logits_name": logits if logits is not None else scores.name,
    }
