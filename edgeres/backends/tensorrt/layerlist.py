"""Reads TensorRT's lists of the layers of an engine.

The same facts come in three dresses: the list in the verbose build log (printed without a GPU
when the plan is built with detailed profiling verbosity), and the JSON of ``EngineInspector`` as
TensorRT before 11 and from 11 on writes it. Tensor types hide under ``Datatype`` (TensorRT for
RTX: ``Int8``) or ``Format/Datatype`` (TensorRT: ``Thirty-two wide channel vectorized row major
Int8 format``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgeres.backends.tensorrt.layers import LayerRecord
from edgeres.errors import ArtefactError
from edgeres.system.foreign_json import parse_json

_TYPE_WORDS = {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "fp8": "fp8",
    "int4": "int4",
    "fp4": "fp4",
}
_TYPE = re.compile(rf"\b({'|'.join(_TYPE_WORDS)})\b", re.IGNORECASE)
_SECTIONS = ("Inputs", "Constants", "Outputs")
_TENSOR = re.compile(r"\{ Name: (.*?)(?:, Location: \w+)?, Dimensions: \[([-\d,]*)\](.*?) \}")
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=$|\[|\x1f|\s)")
_WEIGHTS = re.compile(r'Weights: \{"Type": "(\w+)"')


def read_log(messages: Iterable[str], known_nodes: Iterable[str] = ()) -> list[LayerRecord]:
    """Reads the layer lists out of a builder's verbose messages.

    Args:
        messages: Messages of the builder's log, one string each, possibly of several lines.
        known_nodes: Names of the ONNX nodes, to find them in the names of fused layers where
            TensorRT gives no metadata (8.6).
    """
    names = frozenset(known_nodes)
    return [
        _from_line(line.strip(), names)
        for message in messages
        for line in message.splitlines()
        if line.lstrip().startswith("Name: ") and ", LayerType: " in line
    ]


def _from_line(line: str, known_nodes: frozenset[str]) -> LayerRecord:
    name, _, rest = line.removeprefix("Name: ").partition(", LayerType: ")
    op = rest.partition(",")[0]
    tensors = {section: _section(rest, section) for section in _SECTIONS}
    weights = _WEIGHTS.search(rest)
    tactic = re.search(r", TacticName: ([^,]*)", rest)
    metadata = rest.partition("Metadata: ")[2]
    constants = [kind for kind, rank in tensors["Constants"] if rank > 1]
    if weights:
        constants.append(_type_of(weights.group(1)))
    return LayerRecord(
        name=name,
        op=op,
        inputs=tuple(kind for kind, _ in tensors["Inputs"]),
        constants=tuple(constants),
        outputs=tuple(kind for kind, _ in tensors["Outputs"]),
        nodes=_nodes(metadata, name, known_nodes),
        tactic=tactic.group(1).strip() if tactic and "STUB" not in tactic.group(1) else "",
    )


def _section(text: str, section: str) -> list[tuple[str, int]]:
    """Types and ranks of the tensors in one ``Inputs: [ ... ]`` of a line."""
    start = text.find(f", {section}: [")
    if start < 0:
        return []
    later = [text.find(f", {word}: ", start + 1) for word in (*_SECTIONS, "TacticName")]
    end = min((place for place in later if place > 0), default=len(text))
    found = _TENSOR.finditer(text, start, end)
    return [(_type_of(match.group(3)), match.group(2).count(",") + 1) for match in found]


def _type_of(text: str) -> str:
    match = _TYPE.search(text)
    return _TYPE_WORDS[match.group(1).lower()] if match else "unknown"


def _nodes(metadata: str, name: str, known_nodes: frozenset[str]) -> tuple[str, ...]:
    named = _NODE.findall(metadata)
    if not named:
        named = [part for part in name.split(" + ") if part in known_nodes]
    return tuple(dict.fromkeys(named))


def read_inspector(text: str, known_nodes: Iterable[str] = ()) -> list[LayerRecord]:
    """Reads the JSON of ``EngineInspector.get_engine_information``, of any version.

    Raises:
        ArtefactError: Not that JSON, or an engine built without detailed profiling verbosity.
    """
    try:
        document = parse_json(text)
    except ValueError as error:
        raise _unexpected(str(error)) from error
    # Before 11 the network's tensors are a list of names under another key; either one means that
    # the document is whole.
    if not isinstance(document, dict) or not {"Bindings", "I/O Tensors"} & document.keys():
        raise _unexpected("no list of the network's tensors")
    layers = document.get("Layers")
    if not isinstance(layers, list):
        raise _unexpected("no list of layers")
    if any(isinstance(layer, str) for layer in layers):
        raise ArtefactError(
            "the engine tells only the names of its layers, not their types.",
            hint="Build it with edgeres, which asks for detailed profiling verbosity.",
        )
    names = frozenset(known_nodes)
    return [_from_json(layer, names) for layer in layers]


def _unexpected(what: str) -> ArtefactError:
    return ArtefactError(
        f"TensorRT's engine inspector answered something unexpected: {what}.",
        hint="Build the engine again; if it stays, this TensorRT is newer than edgeres knows.",
    )


def _from_json(layer: Mapping[str, Any], known_nodes: frozenset[str]) -> LayerRecord:
    def tensors(section: str, least_rank: int = 0) -> list[str]:
        return [
            _type_of(str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))))
            for tensor in layer.get(section, ())
            if len(tensor.get("Dimensions", ())) >= least_rank
        ]

    constants = tensors("Constants", least_rank=2)
    weights = layer.get("Weights")
    if isinstance(weights, Mapping) and "Type" in weights:
        constants.append(_type_of(str(weights["Type"])))
    name = str(layer.get("Name", ""))
    return LayerRecord(
        name=name,
        op=str(layer.get("LayerType", "")),
        inputs=tuple(tensors("Inputs")),
        constants=tuple(constants),
        outputs=tuple(tensors("Outputs")),
        nodes=_nodes(str(layer.get("Metadata", "")), name, known_nodes),
        tactic=str(layer.get("TacticName", "")),
    )
