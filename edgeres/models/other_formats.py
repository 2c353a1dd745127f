"""Files of networks that are no checkpoint of torch, told by what they are."""

from __future__ import annotations

import json
from pathlib import Path

_TFLITE = b"TFL3"  # the identifier of its flatbuffers, behind the offset of the root table
_MANIFEST = "-weights_manifest.json"
_LARGEST = 16 << 20
_GRAPH_ALONE = "Export the network to ONNX where it was made, and give the .onnx file."


def other_format(path: Path, start: bytes) -> tuple[str, str] | None:
    """What a file is and what to do with it; ``None`` where nobody knows.

    Args:
        path: The file.
        start: Its first bytes, eight at least.
    """
    if start[4:8] == _TFLITE:
        return "is a TensorFlow Lite model", (
            f"{_GRAPH_ALONE} Of the file alone, `python -m tf2onnx.convert --tflite` makes one."
        )
    kind = _tensorflow_js(path)
    if kind == "layers":
        return "is a Keras model for TensorFlow.js", (
            "Make a Keras file of it: tensorflowjs_converter with its input format "
            "tfjs_layers_model and its output format keras."
        )
    if kind == "graph":
        return "is a graph for TensorFlow.js", _GRAPH_ALONE
    if kind == "weights":
        return "holds weights for TensorFlow.js without the network that they belong to", (
            "Write that network in Python, fill it with them (value = min + scale * integer where "
            "the manifest says quantization), and give it as --model FILE.py:FUNCTION."
        )
    return None


def _tensorflow_js(path: Path) -> str:
    """``layers``, ``graph`` or ``weights``; empty where it is none of them."""
    if path.suffix.lower() == ".json":
        return _described(path)
    if path.suffix.lower() != ".bin":
        return ""
    name = path.name
    for beside in (path.with_name(name[: -len(path.suffix)] + _MANIFEST),
                   path.with_name(name.rpartition("-shard")[0] + _MANIFEST),
                   path.with_name("model.json")):  # fmt: skip
        if beside.is_file() and (kind := _described(beside)):
            return kind
    return ""


def _described(path: Path) -> str:
    """What the JSON file beside the weights says."""
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    if isinstance(said, dict) and "weightsManifest" in said:
        return "graph" if said.get("format") == "graph-model" else "layers"
    first = said[0] if isinstance(said, list) and said else None
    return "weights" if isinstance(first, dict) and {"weights", "paths"} <= set(first) else ""
