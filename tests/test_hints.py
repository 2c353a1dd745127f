"""What an error or a warning tells to do can be done: each option and key that a text names exists.

All texts of the package are read from its source, so a new one is held too.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from edgeres.cli import app
from edgeres.recipe.recipe import Recipe, TaskBlock
from edgeres.recipe.training import TrainingRecipe
from edgeres.system.yaml_file import plain
from edgeres.tasks import task_names

PACKAGE = Path(__file__).parent.parent / "edgeres"
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")
QUOTED = re.compile(r"`([^`\n]+)`")
DOTTED = re.compile(r"^[a-z_]+(\.[a-z_0-9]+)+$")
KEY = re.compile(r"^[a-z_]+:")
#: What is written for other programs, and their commands, which have options of their own.
SCRIPTS = "backends/serving/"
FOREIGN = re.compile(r"\b(python -m (?!edgeres)|pip |dask |trtexec)")
FLEET = {"devices"}  # the key of a fleet file, which is no recipe
GAP = "1"  # in the place of what an f-string fills in


def texts() -> Iterator[tuple[str, str]]:
    """Place and text of every sentence that code says: strings of at least two words."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        inside = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        for node in ast.walk(tree):
            if id(node) in docs or id(node) in inside:
                continue
            text = written(node)
            if text is not None and " " in text.strip():
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def written(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else GAP for part in node.values
        )
    return None


def options() -> set[str]:
    """Every long option of the command line."""
    found = {"help", "version"}
    pending: list[Any] = [typer.main.get_command(app)]
    while pending:
        command = pending.pop()
        pending += list(getattr(command, "commands", {}).values())
        for parameter in command.params:
            found |= {name.lstrip("-") for name in [*parameter.opts, *parameter.secondary_opts]}
    return found


def fields(kind: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Keys of a block, and the block behind each."""
    blocks = {}
    for name, field in kind.model_fields.items():
        inner = [field.annotation]
        while inner and not (isinstance(inner[0], type) and issubclass(inner[0], BaseModel)):
            inner = [*getattr(inner[0], "__args__", ()), *inner[1:]]
        blocks[name] = inner[0] if inner else None
    return blocks


def every_block() -> dict[str, list[type[BaseModel]]]:
    """Blocks by each key that leads to them or lies in them."""
    found: dict[str, list[type[BaseModel]]] = {}
    pending: list[type[BaseModel]] = [Recipe, TrainingRecipe, *task_settings()]
    seen = set()
    while pending:
        kind = pending.pop()
        if kind in seen:
            continue
        seen.add(kind)
        for name, inner in fields(kind).items():
            found.setdefault(name, []).append(kind)
            if inner is not None:
                pending.append(inner)
    return found


def task_settings() -> list[type[BaseModel]]:
    """What each task says of itself in a recipe, beside the keys that all have."""
    modules = [importlib.import_module(f"edgeres.tasks.{name}") for name in task_names()]
    return [
        kind
        for module in modules
        for name, kind in vars(module).items()
        if name.endswith("Settings")
    ]


def wrong_keys(value: Any, blocks: list[type[BaseModel]], free: bool = False) -> Iterator[str]:
    """Keys of a piece of a recipe that none of the blocks has."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if TaskBlock in blocks:
            blocks = [*blocks, *task_settings()]
        holders = [block for block in blocks if key in block.model_fields]
        if not holders and not free:
            yield str(key)
            continue
        next_blocks = [b for block in holders if (b := fields(block)[key]) is not None]
        yield from wrong_keys(inner, next_blocks, free=not next_blocks or key in ("build",))


def key_problems(text: str) -> Iterator[str]:
    from ruamel.yaml import YAML, YAMLError

    known = every_block()
    for piece in QUOTED.findall(text):
        if DOTTED.match(piece):
            first, *rest = piece.split(".")
            if first in Recipe.model_fields:
                value: Any = None
                for part in reversed([first, *rest]):
                    value = {part: value}
                yield from wrong_keys(value, [Recipe])
        elif KEY.match(piece):
            try:
                value = plain(YAML(typ="rt").load(piece.replace("...", "1")))
            except YAMLError:
                continue
            if isinstance(value, dict):
                for key in value:
                    blocks = known.get(str(key), [])
                    if not blocks and key not in FLEET:
                        yield str(key)
                    elif blocks:
                        yield from wrong_keys({key: value[key]}, blocks)


TEXTS = list(texts())


def test_texts_are_found():
    """The collector sees plain strings, filled-in ones and joined ones."""
    said = " ".join(text for _, text in TEXTS)
    assert len(TEXTS) > 800
    assert "Set `data: {train: ...}` or give --train-data." in said
    assert f"Set `channels: {GAP}` in the `preprocess:` block." in said


def test_every_option_that_a_text_names_exists():
    known = options()
    assert {"model", "input-size", "max-drop", "trust-recipe"} <= known
    wrong = [
        f"{place}: --{name}"
        for place, text in TEXTS
        if not FOREIGN.search(text) and not place.startswith(SCRIPTS)
        for name in OPTION.findall(text)
        if name not in known
    ]
    assert not wrong


def test_every_key_that_a_text_names_exists():
    wrong = [f"{place}: `{key}`" for place, text in TEXTS for key in key_problems(text)]
    assert not wrong


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Set `prune: {macs_share: 0.5}`.", "macs_share"),
        ("See `export.opsets`.", "opsets"),
        ("Leave `trian:` out.", "trian"),
        ("Set `quantize: {qat: {epoch: 1}}`.", "epoch"),
    ],
)
def test_a_wrong_key_is_seen(text: str, key: str) -> None:
    assert list(key_problems(text)) == [key]


def test_a_wrong_option_is_seen():
    assert OPTION.findall("Give --trian-data or --data.") == ["trian-data", "data"]
    assert "trian-data" not in options()
