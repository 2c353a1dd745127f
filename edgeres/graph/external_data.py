"""Reads a foreign ONNX file into one self-contained model without trusting anything it says.

An ONNX file may point at other files for its weights. A hostile one points at ``/etc/passwd``, at
``../../secrets``, through a link, or at a memory address, and runtimes have followed. Here every
such reference is checked and read before any other library sees the model, which then holds all
its data itself. Rules:

1. A location is a relative path of plain names below the model's folder: no ``..``, no absolute
   path, no drive, no backslash, no NUL, no memory-address marker.
2. No part of it is a symbolic link, unless it leads to the model's own folder or to the blobs of
   the download cache that the model lies in (:mod:`edgeres.graph.linked_data`), and the file is a
   regular one with a single hard link. It is opened part by part without following links, so
   nothing can be swapped after the check.
3. Offset and length lie within the file.
4. A tensor's shape agrees with the bytes that it has, and all together stay within the limit.
"""

from __future__ import annotations

import math
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgeres.errors import ModelError, StageError
from edgeres.graph.linked_data import plain_place

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit for one message
# Bytes of an element of each type that a float32 network may hold.
_TYPES = {
    "FLOAT": 4,
    "DOUBLE": 8,
    "FLOAT16": 2,
    "BFLOAT16": 2,
    "INT64": 8,
    "INT32": 4,
    "INT16": 2,
    "INT8": 1,
    "UINT64": 8,
    "UINT32": 4,
    "UINT16": 2,
    "UINT8": 1,
    "BOOL": 1,
}
_PLAIN_PART = re.compile(r"[^\\/:\0]+")
_HINT = "Export the model again with its weights inside the file (external_data=False)."


def load_self_contained(path: Path, *, max_bytes: int = MAX_BYTES) -> onnx.ModelProto:
    """Reads an ONNX file and whatever its tensors refer to, under the rules of this module.

    Raises:
        ModelError: The file is missing, damaged or no ONNX model, or breaks a rule.
        StageError: It asks for more than ``max_bytes``.
    """
    model = _parse(path, max_bytes)
    total = 0
    for tensor in _tensors(model):
        size = _declared_bytes(tensor)
        total += size
        if total > max_bytes:
            raise StageError(
                f"{path} asks for {_size(total)} of weights by tensor '{tensor.name}', "
                f"limit {_size(max_bytes)}.",
                hint="Raise the limit only if you trust the model.",
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _embed(tensor, path.parent, size)
        del tensor.external_data[:]
        _check_content(tensor, size)
    return model


def _parse(path: Path, max_bytes: int) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"Expected an ONNX file at {path}, got no regular file.")
        size = status.st_size
        if size > max_bytes:
            raise StageError(f"{path} has {_size(size)}, limit {_size(max_bytes)}.", hint=_HINT)
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        checkpoint = path.suffix.lower() in (".safetensors", ".pt", ".pth")
        raise ModelError(
            f"Expected an ONNX model at {path}, got: {error}.",
            hint="A checkpoint becomes one with `edgeres export`."
            if checkpoint
            else "Check the path and the file.",
        ) from error
    if not model.graph.node:
        raise ModelError(
            f"Expected an ONNX model at {path}, got a file with no graph.",
            hint="Check the path and the file.",
        )
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, wherever it hides."""
    del model.training_info[:]
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_attributes([a for n in function.node for a in n.attribute])
        yield from _of_attributes(list(function.attribute_proto))


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(f"Expected dense weights, got the sparse '{name}'.", hint=_HINT)
    yield from graph.initializer
    yield from _of_attributes([a for n in graph.node for a in n.attribute])


def _of_attributes(attributes: list[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise ModelError(f"Expected dense tensors, got the sparse '{attribute.name}'.")
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)


def _declared_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes that a tensor's type and shape ask for."""
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"Tensor '{tensor.name}' has a negative dimension: {list(tensor.dims)}.")
    known = dict(onnx.TensorProto.DataType.items())
    types = {code: name for name, code in known.items() if name in _TYPES}
    if tensor.data_type not in types:
        kind = next((n for n, code in known.items() if code == tensor.data_type), "")
        raise ModelError(
            f"Expected plain numbers in tensor '{tensor.name}', got "
            f"{kind or f'type code {tensor.data_type}'}.",
            hint="Give the float32 model that it was made from.",
        )
    count: int = math.prod(tensor.dims)
    return count * _TYPES[types[tensor.data_type]]


def _check_content(tensor: onnx.TensorProto, size: int) -> None:
    """A tensor holds what its shape says: no more, no less."""
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    listed = sum(len(getattr(tensor, field)) for field in fields)
    expected = (0, math.prod(tensor.dims)) if not tensor.raw_data else (size, 0)
    if (len(tensor.raw_data), listed) == expected:
        return
    raise ModelError(
        f"Tensor '{tensor.name}' of shape {list(tensor.dims)} asks for {_size(size)}, but "
        f"{len(tensor.raw_data)} bytes and {listed} values are there.",
        hint="The file is damaged or made to do harm; get it again from its source.",
    )


def _embed(tensor: onnx.TensorProto, folder: Path, size: int) -> None:
    """Moves a tensor's data from its file into the tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    # Protobuf gives bytes in place of text that is not UTF-8.
    odd = [text for pair in (*entries.items(), (tensor.name, "")) for text in pair]
    if not all(isinstance(text, str) for text in odd):
        raise ModelError(
            f"External data of tensor {tensor.name!r} is named with bytes that are no text.",
            hint=_HINT,
        )
    location = entries.get("location", "")
    parts = _checked_parts(location, tensor.name)
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size)))
    except ValueError as error:
        raise ModelError(
            f"External data of tensor '{tensor.name}' has no valid offset and length.", hint=_HINT
        ) from error
    place, names = plain_place(folder, parts)
    with os.fdopen(_open_inside(place, names, tensor.name), "rb") as stream:
        status = os.fstat(stream.fileno())
        available = status.st_size
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ModelError(
                f"External data of tensor '{tensor.name}' at {folder / location} is a hard link or "
                "no regular file.",
                hint="Copy the file itself into the model's folder.",
            )
        if offset < 0 or length != size or offset + length > available:
            raise ModelError(
                f"External data of tensor '{tensor.name}' is {length} bytes at {offset} in "
                f"'{location}', which has {available}; its shape asks for {size}.",
                hint="Model and data file do not belong together; get both again.",
            )
        stream.seek(offset)
        tensor.raw_data = stream.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT


def _checked_parts(location: str, name: str) -> list[str]:
    """The names that make up a location, if it is a plain relative path."""
    parts = location.split("/")
    plain = all(_PLAIN_PART.fullmatch(part) and part not in (".", "..") for part in parts)
    if not plain or any("_ORT_MEM_ADDR_" in part for part in parts):
        raise ModelError(
            f"Tensor '{name}' refers to external data at {location!r}, which is no plain path "
            "below the model's folder.",
            hint=f"Such a reference can read any file or memory; it is never followed. {_HINT}",
        )
    return parts


def _open_inside(folder: Path, parts: list[str], name: str) -> int:
    """Opens a file below a folder without following a link anywhere; a file descriptor."""
    if sys.platform == "win32":
        raise ModelError(
            f"External data of tensor '{name}' cannot be read safely on Windows.",
            hint="Save the model with its weights inside.",
        )
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for position, part in enumerate(parts):
            kind = os.O_NONBLOCK if position == len(parts) - 1 else os.O_DIRECTORY
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=handle)
            os.close(handle)
            handle = inner
    except OSError as error:
        os.close(handle)
        raise ModelError(
            f"External data of tensor '{name}' at {folder.joinpath(*parts)} cannot be opened "
            f"without following a link: {os.strerror(error.errno or 0)}.",
            hint="Copy the file itself, not a link to it, into the model's folder.",
        ) from error
    return handle


def _size(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
