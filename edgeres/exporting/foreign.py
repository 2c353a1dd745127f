"""Brings a foreign ONNX file into the normal form; runs in a child process under limits.

Stages: read safely, check, float32 throughout, upgrade the opset, normal form, parity against the
original as it came. The file is written only after the gate has passed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import onnx_ir as ir
from onnx_ir.passes import common

from edgeres.errors import EdgeResError, GateError, ModelError, StageError, one_line
from edgeres.exporting.file_order import put_in_order
from edgeres.exporting.fixed_batch import free_fixed_batch
from edgeres.exporting.fold_constants import FoldConstants
from edgeres.exporting.foreign_checks import check_operators, check_sizes
from edgeres.exporting.free_batch import FreeBatch
from edgeres.exporting.group_norm import GroupNormForm
from edgeres.exporting.image_input import Layout, set_image_shape
from edgeres.exporting.one_precision import in_float32
from edgeres.exporting.original import Original, before_activation, expose
from edgeres.exporting.parity import BATCH_SIZES, F32, ParityReport, Tolerance, check_parity
from edgeres.exporting.passes import is_finite, normal_form, run_pass, to_bytes
from edgeres.exporting.precision_parity import takes_whole_numbers, told_parity
from edgeres.exporting.remove_scales import remove_scales
from edgeres.exporting.scores import check_outputs, check_scores, choose_outputs
from edgeres.exporting.static_branches import without_branches
from edgeres.graph.external_data import load_self_contained
from edgeres.graph.shapes import set_batch
from edgeres.system.child import JsonValue

_LISTED = 5
SCALES_REMOVED = "it is quantized already; its scales were removed."


def normalize_file(
    source: Path,
    out: Path,
    *,
    opset: int,
    layout: Layout | None,
    sample_shape: Sequence[int] | None,
    outputs: Sequence[str],
    classes: bool,
    images: F32 | None,
    tolerance: Tolerance,
    max_bytes: int,
    open_size: Sequence[int] | None = None,
    remove_given_scales: bool = False,
) -> dict[str, Any]:
    """Reads ``source``, writes the normal form to ``out`` and tells about it in JSON values.

    See :func:`edgeres.exporting.import_onnx.import_onnx` for the arguments;
    ``max_bytes`` bounds the weights and each tensor for one image.

    Raises:
        ModelError: The model is not safe, or not what is asked for.
        StageError: It asks for too much memory, or a pass failed.
        GateError: The normal form computes something else than the original.
    """
    original = put_in_order(load_self_contained(source, max_bytes=max_bytes))
    _check_well_formed(original)
    if original.functions:
        original = onnx.inliner.inline_local_functions(original)
    notes: list[JsonValue] = []
    if remove_given_scales:
        quantized, original = original, remove_scales(original)
        if original is not quantized:
            notes.append(SCALES_REMOVED)
    original = without_branches(original, open_size)
    source_opset = check_operators(original)
    if source_opset < opset:
        notes.append(f"opset {source_opset} upgraded to {opset}")
    plain, precisions = in_float32(original)
    model = ir.from_proto(_upgraded(plain, source_opset, opset))
    choose_outputs(model, outputs, classes=classes)
    names = [value.name or "" for value in model.graph.outputs]
    sample, found = set_image_shape(model, layout, sample_shape, open_size)
    batch = free_fixed_batch(model)
    notes += _drop_unused(model)
    if batch is None:
        run_pass(FreeBatch(), model)
    set_batch(model, 1)
    check_sizes(model, max_bytes)
    run_pass(FoldConstants(), model)  # may tell more shapes
    run_pass(GroupNormForm(), model)
    check_sizes(model, max_bytes)
    whole = takes_whole_numbers(original)
    with _told_of_batch(batch, ModelError):
        scores = _checked_scores(model, notes) if classes else 0
        if not classes:
            check_outputs(model)
    reference = Original(plain, names, sample, batch)
    with _told_of_batch(batch, GateError):
        content, parity = _normalize(
            model, reference, sample, images, tolerance, notes, whole=whole
        )
    notes += told_parity(original, content, names, sample, batch, precisions)
    out.write_bytes(content)
    return _described(content) | {
        "source_opset": source_opset,
        "sample_shape": list(sample),
        "layout": found,
        "whole_numbers": whole,
        "num_classes": scores,
        "notes": notes,
        "parity": {**asdict(parity), "batch_sizes": list(parity.batch_sizes)},
    }


@contextmanager
def _told_of_batch(batch: int | None, kind: type[EdgeResError]) -> Iterator[None]:
    """Says with an error that a batch is written into the file, which may be the reason for it."""
    try:
        yield
    except kind as error:
        if batch is None or batch == 1:
            raise
        raise ModelError(
            f"{error.message} The file is written for batches of {batch} and was looked at for one "
            "image: where its answer to an image depends on that number, it is no network for one.",
            hint="Export it with a free batch, or with one of 1.",
        ) from error


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


def _checked_scores(model: ir.Model, notes: list[JsonValue]) -> int:
    """How many class scores there are; they become ``(N, K)``."""
    count = check_scores(model)
    shape = list(model.graph.outputs[0].shape or ())
    if len(shape) != 2:
        _flatten_scores(model, count)
        notes.append(f"scores ({', '.join(['N', *map(str, shape[1:])])}) became (N, {count})")
    return count


def _flatten_scores(model: ir.Model, classes: int) -> None:
    graph = model.graph
    scores = graph.outputs[0]
    name, axis = scores.name, min(1, len(list(scores.shape or ())))
    flatten = ir.Node(
        "", "Flatten", [scores], attributes=[ir.AttrInt64("axis", axis)], name="flatten"
    )
    graph.append(flatten)
    scores.name = f"{name}.unflattened"
    flat = flatten.outputs[0]
    flat.name, flat.type, flat.shape = name, scores.type, ir.Shape([1, classes])
    graph.outputs[0] = flat


def _normalize(
    model: ir.Model,
    reference: Original,
    sample: Sequence[int],
    images: F32 | None,
    tolerance: Tolerance,
    notes: list[JsonValue],
    *,
    whole: bool,
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
            whole=whole,
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
    image, scores = model.graph.input[0], model.graph.output[0]  # the first, of several
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
