"""JSON from elsewhere: whatever is wrong with it is a ``ValueError``, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20


# JSON may hold anything, hence ``Any``.
def parse_json(content: str | bytes) -> Any:
    """Reads JSON.

    Raises:
        ValueError: It is none, or values lie too deep within each other.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("its values lie too deep within each other") from error


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a file of JSON.

    Raises:
        OSError: It cannot be read.
        ValueError: It is longer than that, no JSON, or too deep.
    """
    return parse_json(read_bounded(path, max_bytes=max_bytes))


def read_bounded(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads a file of bounded length.

    Raises:
        OSError: It cannot be read.
        ValueError: It is longer than that.
    """
    with path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return content
