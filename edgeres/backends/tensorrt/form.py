"""Which form of a model TensorRT parses, and how that form is made from the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgeres.backends.tensorrt.fp16 import to_half
from edgeres.backends.tensorrt.graph import Graph
from edgeres.backends.tensorrt.opset17 import to_opset17

Form = Literal["source", "float16", "opset17"]
"""``source`` is the model as it is, the others :mod:`~edgeres.backends.tensorrt.fp16` and
:mod:`~edgeres.backends.tensorrt.opset17`."""


def choose_form(*, weakly_typed: bool, rest: str) -> Form:
    """The form for a TensorRT that is weakly typed (8.6) or not, and for a type of the rest."""
    if weakly_typed:
        return "opset17"  # a flag says what the rest is
    return "float16" if rest == "float16" else "source"


def write_form(graph: Graph, form: Form, out: Path, *, io: str = "float32") -> None:
    """Writes one form of a linted graph, with all constants inside.

    Args:
        graph: The linted graph; for the form ``source`` its constants must lie inside.
        form: Which one.
        out: Where the ONNX file goes.
        io: Type of the float inputs and outputs of the float16 form.

    Raises:
        ModelError: The model has no such form.
    """
    if form == "float16":
        to_half(graph, out, io=io)
    elif form == "opset17":
        to_opset17(graph, out)
    else:
        out.write_bytes(graph.model.SerializeToString(deterministic=True))
