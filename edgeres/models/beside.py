"""What training code and model hubs write beside weights, or around them, in plain values.

Read are ``config.json`` and ``preprocessor_config.json`` in the folder of the weights (timm's and
Hugging Face's names), the metadata of a safetensors file, and what lies beside the state dict in a
torch checkpoint. All of it comes from strangers: sizes are bounded, and nothing is run.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.errors import ModelError, one_line
from edgeres.system.foreign_json import parse_json, read_json

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
MAX_BYTES = 8 << 20
_MAX_DEPTH = 4


@dataclass(frozen=True)
class Said:
    """Values that belong to a checkpoint, and where they were found, for messages."""

    where: str
    values: Mapping[str, Any]


def files_beside(path: Path) -> tuple[Path, ...]:
    """The files in the folder of the weights that may describe them."""
    files = (path.parent / name for name in (CONFIG, PROCESSOR))
    return tuple(file for file in files if file.is_file())


def read_beside(path: Path) -> dict[str, Said]:
    """What the files beside the weights say, by file name.

    Raises:
        ModelError: A file is too large, or no JSON object.
    """
    return {file.name: Said(str(file), _read(file)) for file in files_beside(path)}


def said_inside(content: object, metadata: Mapping[str, str], source: str) -> tuple[Said, ...]:
    """What a checkpoint file says beside its tensors.

    Args:
        content: What the file held; the levels around the state dict are looked at.
        metadata: Of a safetensors file; values that are JSON objects are read as such.
        source: File name for messages.
    """
    said = [Said(f"the metadata of {source}", {k: _unpacked(v) for k, v in metadata.items()})]
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
        said.append(Said(source, {str(k): plain(v) for k, v in content.items()}))
        inner = [v for k, v in content.items() if k in ("checkpoint", "model", "state_dict")]
        content = inner[0] if len(inner) == 1 else None
    return tuple(part for part in said if part.values)


def plain(value: object) -> object:
    """A value without the classes that argument parsers wrap around it."""
    if isinstance(value, Namespace):
        return vars(value)
    return value


def _unpacked(text: str) -> object:
    if not text.startswith("{"):
        return text
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        return text


def _read(file: Path) -> dict[str, Any]:
    hint = "Correct the file, or move the weights to a folder without it."
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise ModelError(
                f"{file} beside the weights has {size} bytes, at most {MAX_BYTES} are read.",
                hint=hint,
            )
        content = read_json(file)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} beside the weights cannot be read: {one_line(error)}.", hint=hint
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{file} beside the weights is no JSON object, but {type(content).__name__}.", hint=hint
        )
    return content
