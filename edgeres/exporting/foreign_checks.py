"""What a foreign ONNX model must be for this project, checked with everything wrong listed.

A residual image classifier: one float image input, one output of class scores, standard operators
without control flow, float32 and not quantized yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import onnx
import onnx_ir as ir

from edgeres.errors import ModelError, StageError
from edgeres.exporting.fold_constants import RANDOM
from edgeres.graph.edit import QUANTIZED, static_shape

Layout = Literal["nchw", "nhwc"]
_CHANNELS = (1, 3, 4)
_LISTED = 5
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def check_operators(model: onnx.ModelProto) -> int:
    """Checks operators and their domains; returns the version of ``ai.onnx``.

    Raises:
        ModelError: Custom operators, control flow, random or quantized operators, with the nodes
            listed.
    """
    nodes = model.graph.node
    quantized = [f"{n.op_type} at {_called(n)}" for n in nodes if n.op_type in QUANTIZED]
    if quantized:
        raise ModelError(
            f"Expected a float32 model, got one that is quantized already: {_listed(quantized)}.",
            hint="Give the float32 model that it was made from. `edgeres build` takes a quantized "
            "file as it is, and says what its engine computes otherwise.",
        )
    foreign = [n for n in nodes if n.domain not in ("", "ai.onnx")]
    if foreign:
        raise ModelError(
            "Expected operators of ai.onnx only, got "
            f"{_listed([f'{n.domain}.{n.op_type} at {_called(n)}' for n in foreign])}.",
            hint="Export the model again without custom operators or runtime optimizations.",
        )
    versions: set[int] = {o.version for o in model.opset_import if o.domain in ("", "ai.onnx")}
    if len(versions) != 1:
        raise ModelError(f"Expected one version of ai.onnx, got {sorted(versions) or 'none'}.")
    for node in nodes:
        node.domain = ""
    control = [f"{n.op_type} at {_called(n)}" for n in nodes if n.op_type in _CONTROL_FLOW]
    if control:
        raise ModelError(
            f"Expected a network without control flow, got {_listed(control)}.",
            hint="Export it in eval mode with a fixed image size.",
        )
    random = [f"{n.op_type} at {_called(n)}" for n in nodes if n.op_type in RANDOM]
    if random:
        raise ModelError(
            f"Expected a network that answers alike each time, got {_listed(random)}.",
            hint="Call model.eval() before the export; a network that draws numbers at inference "
            "has no accuracy to prove.",
        )
    return versions.pop()


def choose_output(model: ir.Model, output: str | None) -> None:
    """Keeps one graph output: the only one, or the one that the user named.

    Raises:
        ModelError: Several and none named, or no such output; all are listed.
    """
    names = [value.name or "" for value in model.graph.outputs]
    if output is None and len(names) != 1:
        raise ModelError(
            f"Expected one output, got {len(names)}: {_listed(names)}.",
            hint="Name the one that holds the class scores.",
        )
    if output is not None and output not in names:
        raise ModelError(f"There is no output '{output}'; there are {_listed(names)}.")
    kept = [value for value in model.graph.outputs if output in (None, value.name)]
    model.graph.outputs.clear()
    model.graph.outputs.append(kept[0])


def set_image_shape(
    model: ir.Model, layout: Layout, image_shape: Sequence[int] | None
) -> tuple[int, ...]:
    """Checks the one image input, fixes its size, and returns the sample shape as it is fed.

    Raises:
        ModelError: Several inputs, no float32 image, the other layout, or a size that is not
            known and was not given.
    """
    initializers = model.graph.initializers
    inputs = [value for value in model.graph.inputs if value.name not in initializers]
    shown = [f"{v.name}: {v.type} {v.shape}" for v in inputs]
    if len(inputs) != 1:
        raise ModelError(f"Expected one image input, got {len(inputs)}: {_listed(shown)}.")
    model.graph.inputs.clear()
    model.graph.inputs.append(inputs[0])
    value = inputs[0]
    if value.dtype != ir.DataType.FLOAT or value.shape is None or len(value.shape) != 4:
        raise ModelError(
            f"Expected a float32 image input of 4 dimensions, got {shown[0]}.",
            hint="Export the network itself, without preprocessing, in float32.",
        )
    dims = [dim if isinstance(dim, int) else None for dim in list(value.shape)[1:]]
    given = image_shape if image_shape is not None else dims
    agrees = len(given) == 3 and all(d is None or d == g for d, g in zip(dims, given, strict=True))
    if not agrees or any(g is None or g < 1 for g in given):
        raise ModelError(
            f"Expected an image of known size, got {shown[0]}"
            + (f" for a sample of shape {tuple(given)}." if image_shape is not None else "."),
            hint="Give the shape of one sample, without the batch.",
        )
    sample = tuple(int(g) for g in given if g is not None)
    _check_layout(sample, layout, shown[0])
    value.shape = ir.Shape([next(iter(value.shape)), *sample])
    return sample


def check_scores(model: ir.Model) -> int:
    """Checks the output for a batch of one and returns the number of classes.

    Raises:
        ModelError: Not ``(1, K)`` or ``(1, K, 1, 1)`` float32.
    """
    value = model.graph.outputs[0]
    shape = static_shape(value)
    good = shape is not None and len(shape) in (2, 4) and shape[0] == 1
    if shape is None or not good or math.prod(shape[2:]) != 1 or value.dtype != ir.DataType.FLOAT:
        raise ModelError(
            f"Expected class scores (N, K) float32 at output '{value.name}', got "
            f"{value.type} {value.shape} for one image.",
            hint="Only image classifiers are supported; name another output if there is one.",
        )
    return shape[1]


def check_sizes(model: ir.Model, max_bytes: int) -> None:
    """Refuses a model whose tensors cannot fit, before anything computes them.

    Raises:
        StageError: A tensor for one image is larger than the limit.
        ModelError: Weights or activations in another floating-point type than float32.
    """
    tensors = [*model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    for value in tensors:
        shape, dtype = static_shape(value), value.dtype
        if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
            raise ModelError(
                f"Expected float32 throughout, got {dtype.name} at '{value.name}'.",
                hint="Export the model in float32.",
            )
        size = math.prod(shape or ()) * (dtype.itemsize if dtype is not None else 4)
        if size > max_bytes:
            raise StageError(
                f"Tensor '{value.name}' of shape {list(shape or ())} takes {size / 2**30:.4g} GiB "
                f"for one image, limit {max_bytes / 2**30:.3g} GiB.",
                hint="Raise the limit only if you trust the model.",
            )


def _check_layout(sample: tuple[int, ...], layout: Layout, shown: str) -> None:
    first, last = sample[0] in _CHANNELS, sample[-1] in _CHANNELS
    actual: Layout | None = "nchw" if first and not last else "nhwc" if last and not first else None
    if actual is not None and actual != layout:
        raise ModelError(
            f"Expected an image input of layout {layout}, got {shown}, which looks like {actual}.",
            hint=f"Say --layout {actual} (preprocess.layout in a recipe).",
        )


def _called(node: onnx.NodeProto) -> str:
    return f"'{node.name or (node.output[0] if node.output else '')}'"


def _listed(things: Sequence[str]) -> str:
    more = len(things) - _LISTED
    return ", ".join(things[:_LISTED]) + (f" and {more} more" if more > 0 else "")
