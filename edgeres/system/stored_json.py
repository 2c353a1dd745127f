"""The one reader of what was stored as JSON: typed objects, or which field of which file is wrong.

The types are frozen dataclasses with the field names of the file. Fields that a file has besides
are passed over, so a newer edgeres may write more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from edgeres.errors import ArtefactError

T = TypeVar("T")

AGAIN = "Run `edgeres convert` again."


def read_stored(path: Path, kind: type[T], *, hint: str = AGAIN) -> T:
    """Reads a stored JSON file as an object of one type.

    Args:
        path: The file.
        kind: A dataclass, or another type that JSON values can be checked against.
        hint: What to do about a damaged file.

    Raises:
        ArtefactError: It cannot be read, is not JSON, or a field is missing or of another type.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}).", hint=hint) from error
    return parse_stored(text, kind, where=str(path), hint=hint)


def parse_stored(text: str, kind: type[T], *, where: str, hint: str = AGAIN) -> T:
    """The same for a text, for instance in the metadata of a checkpoint.

    Args:
        text: JSON.
        kind: As for :func:`read_stored`.
        where: What the text is, for the error.
        hint: What to do about it.

    Raises:
        ArtefactError: It is not JSON, or a field is missing or of another type.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{where}: is not JSON ({error}).", hint=hint) from error
    return check_stored(content, kind, where=where, hint=hint)


def check_stored(content: object, kind: type[T], *, where: str, hint: str = AGAIN) -> T:
    """The same for JSON values, for instance what a child process answered.

    Args:
        content: The values.
        kind: As for :func:`read_stored`.
        where: What they are, for the error.
        hint: What to do about it.

    Raises:
        ArtefactError: A field is missing or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtefactError(f"{where}: {field}: {first['msg']}.", hint=hint) from error


def read_json_object(path: Path, *, hint: str = AGAIN) -> dict[str, Any]:
    """Reads a JSON object whose names are nobody's in particular, such as a recipe or settings.

    Raises:
        ArtefactError: It cannot be read or is no JSON object.
    """
    return read_stored(path, dict[str, Any], hint=hint)
