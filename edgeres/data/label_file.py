"""Names of a network's classes, in the order of its scores, from the files that people have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeres.errors import DataError
from edgeres.system.foreign_json import parse_json, read_bounded
from edgeres.system.plain_files import refuse_special

_MAX_BYTES = 16 << 20
#: A line of ImageNet's lists: either its synset or its words find the class of a folder.
_SYNSET = re.compile(r"^(?P<wnid>n[0-9]{8})\s+(?P<words>\S.*)$")
_IDS, _INDEX = "id2label", ("label2id", "class_to_idx")
_HINT = (
    "One name a line in the order of the scores; or JSON: a list, {number: name}, {name: number}, "
    "or an object with id2label."
)


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads names of classes.

    Args:
        path: A text with one name a line, or JSON: a list of names, numbers to names (Hugging
            Face's ``id2label``, also within a ``config.json``; Keras' index, where a name is a pair
            of synset and word), or names to numbers (torchvision's ``class_to_idx``).

    Raises:
        DataError: It cannot be read, or says no names, or numbers with gaps.
    """
    refuse_special(path, DataError)
    try:
        text = read_bounded(path, max_bytes=_MAX_BYTES).decode("utf-8-sig")
        if text.lstrip()[:1] in ("{", "["):
            names = _of_json(parse_json(text))
        else:
            lines = (line.strip() for line in text.splitlines())
            names = tuple(_SYNSET.sub(r"\g<words>, \g<wnid>", line) for line in lines if line)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{path}: no names of classes can be read: {reason}.", hint=_HINT
        ) from error
    if not names:
        raise DataError(f"{path}: holds no names of classes.", hint=_HINT)
    return names


def _of_json(said: Any) -> tuple[str, ...]:
    """Names in the order of their numbers.

    Raises:
        ValueError: It says none.
    """
    if isinstance(said, Mapping):
        for key in (_IDS, *_INDEX):
            if isinstance(said.get(key), Mapping):
                return _of_json(said[key])
        if said and all(isinstance(value, int) for value in said.values()):
            if len(set(said.values())) < len(said):
                raise ValueError("two names have the same number")
            said = {str(number): name for name, number in said.items()}
        missing = next((n for n in range(len(said)) if str(n) not in said), None)
        if missing is not None:
            raise ValueError(f"class {missing} of {len(said)} has no name")
        said = [said[str(number)] for number in range(len(said))]
    if isinstance(said, Sequence) and not isinstance(said, str):
        return tuple(_name(each) for each in said)
    raise ValueError("it is no list and no object of names")


def _name(each: Any) -> str:
    if isinstance(each, str):
        return each
    if isinstance(each, list) and each and all(isinstance(part, str) for part in each):
        return ", ".join(reversed(each))  # of Keras' pairs, the word first
    raise ValueError(f"{str(each)[:60]!r} is no name")
