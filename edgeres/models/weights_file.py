"""Reads weight files without running code from them, and writes safetensors atomically.

Pickles are read with ``weights_only=True`` and in no other way; classes that they name are never
imported, see :mod:`edgeres.models.stand_ins`.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

import torch

from edgeres.errors import ModelError
from edgeres.models.other_formats import other_format
from edgeres.models.stand_ins import load_as_data
from edgeres.models.weights_place import INDEX, shards_of, weights_place
from edgeres.system.files import atomic_writer
from edgeres.system.foreign_json import parse_json
from edgeres.system.plain_files import refuse_special

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_HEADER = struct.Struct("<Q")


def read_weights(path: Path) -> tuple[object, dict[str, str]]:
    """Reads a ``.safetensors`` file or a torch pickle of tensors; the content decides which.

    A folder of a model hub, and the index of several shards, are read as one file.

    Returns:
        What the file holds (a mapping of tensors, or mappings around one), on the CPU, and the
        safetensors metadata (empty for pickles).

    Raises:
        ModelError: The file is missing, empty, truncated, of another kind, or a pickle that holds
            more than tensors and plain containers.
    """
    path = weights_place(path)
    if path.name.endswith(INDEX):
        return _read_shards(path)
    refuse_special(path, ModelError)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_HEADER.size + 1)
    except OSError as error:
        raise ModelError(
            f"Cannot read the checkpoint {path}: {error.strerror or error}.",
            hint="Check the path (relative to the current folder).",
        ) from error
    if size == 0:
        raise ModelError(
            f"The checkpoint {path} is empty (0 bytes).", hint="Copy or download it again."
        )
    if path.suffix == ".onnx":
        raise ModelError(
            f"{path} is an ONNX model, not a checkpoint.",
            hint="ONNX goes straight to quantization: edgeres convert --model model.onnx.",
        )
    # Safetensors first: the low byte of its header length may well be a pickle's first byte.
    if start[_HEADER.size :] == b"{" or (path.suffix == ".safetensors" and start[:4] != _ZIP):
        return _read_safetensors(path, size)
    if start.startswith((_ZIP, _PICKLE)):
        return _read_pickle(path), {}
    if (known := other_format(path, start)) is not None:
        raise ModelError(f"{path} {known[0]}.", hint=known[1])
    raise ModelError(
        f"{path} ({size} bytes) is neither safetensors nor a torch checkpoint.",
        hint="Copy or download it again, or save it with edgeres or torch.save(state_dict).",
    )


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes the same bytes for the same content, all or nothing.

    The library orders metadata at random, which would give every save another hash, so the header
    is written again with sorted keys (format: https://github.com/huggingface/safetensors#format).

    Raises:
        StorageError: The folder cannot be written or the disk is full; an older file stays as it
            was.
    """
    from safetensors.torch import save

    ordered = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    raw = save(ordered, {"format": "pt", **metadata})
    (length,) = _HEADER.unpack_from(raw)
    header = parse_json(raw[_HEADER.size : _HEADER.size + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_writer(path) as stream:
        stream.write(_HEADER.pack(len(text)) + text)
        stream.write(memoryview(raw)[_HEADER.size + length :])


def _read_safetensors(path: Path, size: int) -> tuple[object, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, dict(metadata)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} ({size} bytes) is not a whole safetensors file: {_one_line(error)}.",
            hint="Copy or download it again; its size and SHA-256 should match the original's.",
        ) from error


def _read_shards(index: Path) -> tuple[object, dict[str, str]]:
    """All tensors that an index names, each from its shard."""
    places = shards_of(index)
    tensors: dict[str, object] = {}
    for shard in sorted(set(places.values())):
        content, _ = read_weights(shard)
        if not isinstance(content, Mapping):
            raise ModelError(f"{shard} holds no tensors by name.", hint="Download it again.")
        wanted = {name for name, place in places.items() if place == shard}
        lacking = sorted(wanted - set(content))
        if lacking:
            raise ModelError(
                f"{shard} lacks '{lacking[0]}', which {index.name} names.",
                hint="Download the whole folder again.",
            )
        tensors |= {name: content[name] for name in wanted}
    return tensors, {}


def _read_pickle(path: Path) -> object:
    import pickle

    try:
        return load_as_data(path)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is refused: it holds more than tensors and plain containers "
            f"({_reason(error)}); loading it could run code, so none of it was run.",
            hint="Where you trust it, save only the weights, torch.save(model.state_dict(), path), "
            "or give code that loads it: --model mymodel.py:build.",
        ) from error
    except Exception as error:
        # torch's readers raise whatever the damage leads to: EOFError, RuntimeError, KeyError,
        # UnicodeDecodeError, struct.error and more. Any of them means that the file is unusable.
        raise ModelError(
            f"{path} is not a usable torch checkpoint: {_one_line(error)}.",
            hint="Copy or download it again, or save it with torch.save(model.state_dict(), path).",
        ) from error


def _reason(error: Exception) -> str:
    """What was refused, out of torch's long advice on how to allow it."""
    text = " ".join(str(error).split())
    match = re.search(r"GLOBAL (\S*\w)", text)
    return f"it needs {match[1]}" if match else "an operation other than building tensors"


def _one_line(error: Exception) -> str:
    """The first sentence of a vendor's message."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return text[:200] or type(error).__name__
