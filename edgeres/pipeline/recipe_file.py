"""Reads a recipe from YAML 1.2 and says what is wrong with file, line, key and a suggestion.

Recipes come from strangers: besides what :mod:`edgeres.system.yaml_file` refuses, paths may not
leave the recipe's folder unless the caller allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap

from edgeres.backends import get_backend
from edgeres.errors import RecipeError
from edgeres.models.plan import ARCHITECTURES
from edgeres.modules.spec import is_code
from edgeres.recipe.block import Block, complaint
from edgeres.recipe.recipe import Recipe, TaskBlock
from edgeres.recipe.training import TrainingRecipe
from edgeres.system.assets import asset_folder, asset_path
from edgeres.system.yaml_file import plain, read_yaml

B = TypeVar("B", bound=Block)
DEFAULT_RECIPE = "default.yaml"
_PATH_KEYS = (
    *(("model", "source"), ("model", "weights"), ("model", "labels")),
    ("model", "sample_answer"),
)
_DATA_KEYS = ("calibration", "validation", "train")


def load_recipe(
    path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    trusted: bool = False,
) -> Recipe:
    """Loads and checks a recipe; without a path the embedded default.

    Args:
        path: YAML file, or the name of an embedded recipe such as ``openvino``.
        overrides: Dotted keys that replace what the file says, e.g. from the command line.
        trusted: Allow paths in the file that leave the folder of the file.

    Raises:
        RecipeError: The file does not parse or validate; file, line and key are in the message.
    """
    file = _find(path)
    document = read_yaml(file, what="a recipe", error=RecipeError, hint="See docs/recipes.md.")
    embedded = file.parent == asset_folder("recipes")
    recipe = _checked(Recipe, document, file)
    if not (trusted or embedded):
        _refuse_outside(document, recipe, file)
        _refuse_code(document, recipe, file, overrides or {})
    recipe = _anchored(recipe, file.parent)
    return recipe.override(overrides, where="command line") if overrides else recipe


def load_training_recipe(path: Path) -> TrainingRecipe:
    """Reads and checks what ``edgeres train`` runs.

    Raises:
        RecipeError: The file does not parse or validate; file, line and key are in the message.
    """
    document = read_yaml(path, what="a training recipe", error=RecipeError)
    return _checked(TrainingRecipe, document, path)


def stage_recipe(path: Path | str | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe whose settings hold for a command of one stage.

    Args:
        path: As for :func:`load_recipe`.
        options: Dotted keys; ``None`` leaves what the file says.

    Raises:
        RecipeError: As :func:`load_recipe`.
    """
    overrides = {key: value for key, value in options.items() if value is not None}
    return load_recipe(path, overrides, trusted=True)


def _find(path: Path | str | None) -> Path:
    if path is None:
        return asset_path("recipes", DEFAULT_RECIPE)
    file = Path(path)
    if file.is_file():
        return file
    embedded = asset_folder("recipes")
    embedded_file = embedded / f"{file.name}.yaml"
    if file.parent == Path() and embedded_file.is_file():
        return embedded_file
    names = sorted(recipe.stem for recipe in embedded.glob("*.yaml"))
    raise RecipeError(
        f"{file}: no such recipe file.", hint=f"Give a YAML file or one of: {', '.join(names)}."
    )


def _checked(kind: type[B], document: CommentedMap, file: Path) -> B:
    try:
        return kind.model_validate(plain(document))
    except ValidationError as error:
        keys, problem = complaint(error, kind)
        raise RecipeError(f"{file}:{_line(document, keys)}: {problem}") from error


def _line(document: CommentedMap, keys: list[str]) -> int:
    """Line of the deepest key that the document has; 1 for the document itself."""
    node: Any = document
    line = 1
    for key in keys:
        if not isinstance(node, CommentedMap) or key not in node:
            break
        line = int(node.lc.key(key)[0]) + 1
        node = node[key]
    return line


def _refuse_outside(document: CommentedMap, recipe: Recipe, file: Path) -> None:
    places: list[tuple[tuple[str, ...], str | None]] = [
        (keys, _text(document, keys)) for keys in _PATH_KEYS
    ]
    for key in _DATA_KEYS:
        spec = _text(document, ("data", key))
        kind, _, rest = (spec or "").partition(":")
        if rest:
            places += [(("data", key), part) for part in rest.split(",")]
        elif kind:
            places.append((("data", key), None))
    places += [(("build", *keys), text) for keys, text in _path_options(recipe).items()]
    for keys, text in places:
        if text and (PurePath(text).is_absolute() or ".." in PurePath(text).parts):
            raise RecipeError(
                f"{file}:{_line(document, list(keys))}: `{'.'.join(keys)}` leaves the recipe's "
                f"folder: {text}.",
                hint="Give it on the command line, or pass --trust-recipe.",
            )


def _refuse_code(
    document: CommentedMap, recipe: Recipe, file: Path, overrides: Mapping[str, Any]
) -> None:
    """A recipe may come from a stranger, and so may the code that it names."""
    if is_code(recipe.model.source) and "model.source" not in overrides:
        raise RecipeError(
            f"{file}:{_line(document, ['model', 'source'])}: `model.source` names Python code that "
            f"would run: {recipe.model.source}.",
            hint="Read it, then pass --trust-recipe, or give it as --model.",
        )
    if "task" not in overrides and any(_function(block) for block in recipe.task):
        raise RecipeError(
            f"{file}:{_line(document, ['task'])}: `task` names Python code that would run.",
            hint="Read it, then pass --trust-recipe, or give it as --task.",
        )
    for key in _DATA_KEYS:
        spec = getattr(recipe.data, key) or ""
        if spec.startswith("python:") and f"data.{key}" not in overrides:
            raise RecipeError(
                f"{file}:{_line(document, ['data', key])}: `data:` names Python code that would "
                f"run: {spec}.",
                hint="Read it, then pass --trust-recipe, or give it on the command line.",
            )


def _function(block: TaskBlock) -> str:
    """The user's own metric that a task names; empty where it names none."""
    said = block.model_extra or {}
    return str(said.get("function") or "")


def _path_options(recipe: Recipe) -> dict[tuple[str, str, str], str]:
    """Paths among the options of the targets, by their keys below ``build``."""
    return {
        (target, "options", name): text
        for target, block in recipe.build.items()
        for name, text in block.to_config("").options.items()
        if name in get_backend(target).path_options
    }


def _text(document: CommentedMap, keys: tuple[str, ...]) -> str | None:
    node: Any = document
    for key in keys:
        node = node.get(key) if isinstance(node, CommentedMap) else None
    return node if isinstance(node, str) else None


def _anchored(recipe: Recipe, folder: Path) -> Recipe:
    """Makes the relative paths of the file relative to the file, not to the caller's folder."""
    changes: dict[str, Any] = {}
    for block, key in _PATH_KEYS:
        text = getattr(getattr(recipe, block), key)
        known = text in ARCHITECTURES  # whatever folder has that name
        if text and (PurePath(text).suffix or (not known and (folder / text).is_dir())):
            changes[f"{block}.{key}"] = str(folder / text)
    for key in _DATA_KEYS:
        kind, colon, rest = (getattr(recipe.data, key) or "").partition(":")
        if colon:
            parts = ",".join(str(folder / part) for part in rest.split(","))
            changes[f"data.{key}"] = f"{kind}:{parts}"
    for keys, text in _path_options(recipe).items():
        if PurePath(text).name != text:  # a plain name has a meaning of its own
            changes[".".join(("build", *keys))] = str(folder / text)
    if any(_function(block) for block in recipe.task):
        changes["task"] = [
            {**block.model_dump(exclude_unset=True), "function": str(folder / _function(block))}
            if _function(block)
            else block.model_dump(exclude_unset=True)
            for block in recipe.task
        ]
    return recipe.override(changes) if changes else recipe
