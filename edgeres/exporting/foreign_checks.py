"""What a foreign ONNX model must hold for this project, checked with everything wrong listed.

Standard operators without control flow, no random numbers, not quantized yet, and no tensor that is
larger than the memory. :mod:`edgeres.exporting.image_input` and :mod:`edgeres.exporting.scores`
look at what goes in and what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from edgeres.errors import ModelError, StageError
from edgeres.exporting.fold_constants import RANDOM
from edgeres.graph.edit import QUANTIZED, static_shape

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
            hint="Give the float32 model that it was made from, take its scales out with "
            "--given-scales remove (`model: {given_scales: remove}`), or have it judged as it is "
            "with --given-scales keep. `edgeres build` takes such a file, too.",
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


def check_sizes(model: ir.Model, max_bytes: int) -> None:
    """Refuses a model whose tensors cannot fit, before anything computes them.

    Raises:
        StageError: A tensor for one image is larger than the limit.
        ModelError: Activations in another floating-point type than float32.
    """
    tensors = [*model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs)]
    for value in tensors:
        shape, dtype = static_shape(value), value.dtype
        if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
            raise ModelError(
                f"Expected float32 throughout, got {dtype.name} at '{value.name}'.",
                hint="Weights and inputs of other types are converted, but an operator makes this "
                "one; export the model in float32.",
            )
        size = math.prod(shape or ()) * (dtype.itemsize if dtype is not None else 4)
        if size > max_bytes:
            raise StageError(
                f"Tensor '{value.name}' of shape {list(shape or ())} takes {size / 2**30:.4g} GiB "
                f"for one image, limit {max_bytes / 2**30:.3g} GiB.",
                hint="Raise the limit only if you trust the model.",
            )


def _called(node: onnx.NodeProto) -> str:
    return f"'{node.name or (node.output[0] if node.output else '')}'"


def _listed(things: Sequence[str]) -> str:
    more = len(things) - _LISTED
    return ", ".join(things[:_LISTED]) + (f" and {more} more" if more > 0 else "")
