"""From an ONNX file to an OpenVINO model whose bytes depend on that file alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.backends._onnx_origin import SourceNode, read_nodes
from edgeres.errors import ModelError, one_line
from edgeres.system.extras import import_extra

AUTO_NAME = "auto:"
"""Begins the name of every IR operation that does not carry the name of an ONNX node."""


def read_onnx(path: Path, source_sha256: str) -> Any:
    """Converts an ONNX file into an ``openvino.Model``.

    The ONNX reader is asked for by name: OpenVINO would else offer the file to its readers for
    other formats. The hash of the source goes into the model, and so into the ``.xml``, which then
    tells models apart although the weights lie in the ``.bin``.

    Raises:
        BackendMissingError: OpenVINO is not here.
        ModelError: The file is no ONNX model, or has ops that OpenVINO does not convert.
    """
    frontends = import_extra("openvino.frontend", extra="openvino")
    nodes = read_nodes(path)
    try:
        reader = frontends.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
    except Exception as error:  # its exceptions have no base but Exception
        raise ModelError(
            f"{path}: OpenVINO rejects the model: {one_line_of(error)}.",
            hint="Import it with edgeres first, or see what the message names.",
        ) from error
    _name_operations(model, nodes)
    model.set_rt_info(source_sha256, ["edgeres", "source_sha256"])
    return model


def one_line_of(error: Exception) -> str:
    """What OpenVINO says: its summary if it gives one, without the places in its sources."""
    text = str(error).rpartition("Summary:")[2]
    return one_line(
        RuntimeError(re.sub(r"(Exception from|Check '.*?' failed at) \S+:\d+:\s*", "", text))
    )


def _name_operations(model: Any, nodes: Sequence[SourceNode]) -> None:
    """Gives operations names that come from the ONNX file alone.

    OpenVINO names what it adds by a counter of the process, so that two conversions of one file
    differ; and some nodes (a Gemm) by their output tensor.
    """
    names = {node.name for node in nodes}
    by_tensor = {tensor: node.name for node in nodes for tensor in node.outputs}
    counts: dict[str, int] = {}
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if name == operation.get_name() and re.fullmatch(rf"{re.escape(kind)}_\d+", name):
            counts[kind] = counts.get(kind, 0) + 1
            operation.set_friendly_name(f"{AUTO_NAME}{kind}_{counts[kind]}")
        elif name not in names and name in by_tensor and kind not in ("Parameter", "Result"):
            operation.set_friendly_name(by_tensor[name])
    model.set_friendly_name("edgeres")
