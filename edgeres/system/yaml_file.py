"""Reads a YAML 1.2 file of strangers and says what is wrong with file and line.

Size and depth are bounded, tags, anchors and aliases are refused, duplicate keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.errors import EdgeResError, one_line
from edgeres.system.plain_files import refuse_special

if TYPE_CHECKING:
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.events import Event

MAX_BYTES = 1 << 20
_DEEPEST = 20


def read_yaml(
    path: Path, *, what: str, error: type[EdgeResError], hint: str = "Check the path."
) -> CommentedMap:
    """The mapping that a YAML file holds, with the lines of its keys.

    Args:
        path: The file.
        what: What it should be, with its article, for messages.
        error: What to raise.
        hint: What to do where the file is none.

    Raises:
        EdgeResError: As ``error``: no such file, too large, not YAML, or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    refuse_special(path, error)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"{path}: {size} bytes; {what} has at most {MAX_BYTES}.", hint=hint)
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in YAML(typ="rt", pure=True).parse(text):
            if trick := _trick(event):
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise error(f"{path}:{line}: {trick} are not allowed in {what}.", hint=hint)
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > _DEEPEST:  # the parser takes minutes for thousands
                line = event.start_mark.line + 1
                raise error(f"{path}:{line}: more than {_DEEPEST} values within each other.")
        document = YAML(typ="rt", pure=True).load(text)
    except OSError as problem:
        told = f"{path}: {what} cannot be read there ({problem.strerror})."
        raise error(told, hint=hint) from problem
    except UnicodeDecodeError as problem:
        raise error(f"{path}: not UTF-8 text.", hint=hint) from problem
    except MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 0
        told = str(problem.problem or "")
        if isinstance(problem, DuplicateKeyError):
            told = told.split(" with value", maxsplit=1)[0]
            raise error(f"{path}:{line}: {told}.", hint="Keep one of them.") from problem
        raise error(f"{path}:{line}: not valid YAML: {told}.", hint=hint) from problem
    except (YAMLError, ValueError, RecursionError) as problem:
        raise error(f"{path}: not valid YAML: {one_line(problem)}.", hint=hint) from problem
    if not isinstance(document, CommentedMap):
        raise error(f"{path}: {what} is a mapping of keys and values.", hint=hint)
    return document


def plain(node: Any) -> Any:
    """What was read as plain values, without their lines."""
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    kind = next((kind for kind in (bool, int, float, str) if isinstance(node, kind)), None)
    return node if kind is None else kind(node)


def _trick(event: Event) -> str:
    from ruamel.yaml.events import AliasEvent, NodeEvent

    if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
        return "anchors and aliases"
    return "" if getattr(event, "tag", None) is None else "YAML tags"
