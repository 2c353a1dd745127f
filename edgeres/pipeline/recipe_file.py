"""Reads a recipe from YAML 1.2 and says what is wrong with file, line, key and a suggestion.

Recipes come from strangers: besides what :mod:`edgeres.system.yaml_file` refuses, paths may not
leave the recipe's folder and code that is named does not run, unless the caller allows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml.comments import CommentedMap

from edgeres.backends import get_backend
from edgeres.data.source import is_bare_path
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
_CODE_DATA = "python:"
_PATH_KEYS = (
    *(("model", "source"), ("model", "weights"), ("model", "labels")),
    ("model", "sample_answer"),
)
_LENT = ("model", "targets")
_OF_ITS_NETWORK = ("prune", "benchmark")
"""What the embedded default says for the main job's network alone."""
_DATA_KEYS = ("calibration", "validation", "train")


def _function(block: TaskBlock) -> str:
    """The user's own metric that a task names; empty where it names none."""
    said = block.model_extra or {}
    return str(said.get("function") or "")


def _samples(key: str) -> Callable[[Recipe], str]:
    """Reads what a key of `data:` says, where it is code."""

    def read(recipe: Recipe) -> str:
        spec = getattr(recipe.data, key) or ""
        return spec if spec.startswith(_CODE_DATA) else ""

    return read


_CODE: Mapping[str, Callable[[Recipe], str]] = {
    "model.source": lambda recipe: recipe.model.source if is_code(recipe.model.source) else "",
    "task": lambda recipe: ", ".join(filter(None, map(_function, recipe.task))),
    **{f"data.{key}": _samples(key) for key in _DATA_KEYS},
}
"""The code that a recipe names, by the key that names it; empty texts where it is none."""
_OPTIONS = {"model.source": "as --model", "task": "as --task"}


def load_recipe(
    path: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    trusted: bool = False,
) -> Recipe:
    """Loads and checks a recipe; without a path the embedded default.

    Of the default only what any network can use is lent to another one that ``overrides`` name: its
    widths and its threads are for its own.

    Args:
        path: YAML file, or the name of an embedded recipe such as ``openvino``.
        overrides: Dotted keys that replace what the file says, e.g. from the command line.
        trusted: Allow paths in the file that leave the folder of the file.

    Raises:
        RecipeError: The file does not parse or validate; file, line and key are in the message.
    """
    another = path is None and "model.source" in (overrides or {})
    file, document, recipe = _read(path, alone=_OF_ITS_NETWORK if another else ())
    if not trusted:
        _refuse_outside(document, recipe, file)
        _refuse_code(document, recipe, file, overrides or {})
    return _changed(recipe, file, overrides or {})


def load_training_recipe(path: Path, *, data: str | None = None) -> TrainingRecipe:
    """Reads and checks what ``edgeres train`` runs.

    Args:
        path: YAML file.
        data: What the command line says in place of the file's `data:`.

    Raises:
        RecipeError: The file does not parse or validate; file, line and key are in the message.
            Or its samples are code that nobody but the file names.
    """
    document = read_yaml(path, what="a training recipe", error=RecipeError)
    recipe = _checked(TrainingRecipe, document, path)
    if data is None and recipe.data.startswith(_CODE_DATA):
        raise RecipeError(
            f"{path}:{_line(document, ['data'])}: `data:` names Python code that would run: "
            f"{recipe.data}.",
            hint="Read it, then give it as --data.",
        )
    return recipe


def stage_recipe(
    path: Path | str | None, options: Mapping[str, Any], *, runs: Mapping[str, str] | None = None
) -> Recipe:
    """The recipe whose settings hold for a command of one stage.

    The command says which network it is for and what it makes, so a file may leave out `model` and
    `targets`; those of the embedded default stand in. Without a file the default's own widths and
    threads do not hold: a network is pruned as an empty `prune:` block says.

    Args:
        path: As for :func:`load_recipe`.
        options: Dotted keys; ``None`` leaves what the file says.
        runs: Keys whose code this command would run, with the option that names it instead.

    Raises:
        RecipeError: As :func:`load_recipe`.
    """
    overrides = {key: value for key, value in options.items() if value is not None}
    if path is None:
        file, document, recipe = _read(path, alone=_OF_ITS_NETWORK)
        recipe = recipe.override({"prune": {}}, where="default")
    else:
        file, document, recipe = _read(path, lent=_LENT)
    for key, option in (runs or {}).items():
        _refuse_code(document, recipe, file, overrides, keys=(key,), hint=f"give it as {option}")
    return _changed(recipe, file, overrides)


def _read(
    path: Path | str | None, *, lent: Sequence[str] = (), alone: Sequence[str] = ()
) -> tuple[Path, CommentedMap, Recipe]:
    """A recipe and where it lies.

    Keys that are ``lent`` may be left out of the file; those that it keeps ``alone`` are not read.
    """
    file = _find(path)
    document = read_yaml(file, what="a recipe", error=RecipeError, hint="See docs/recipes.md.")
    for key in alone:
        document.pop(key, None)
    content = document
    if missing := [key for key in lent if key not in document]:
        default = asset_path("recipes", DEFAULT_RECIPE)
        lender = read_yaml(default, what="a recipe", error=RecipeError)
        content = CommentedMap({**document, **{key: lender[key] for key in missing}})
    return file, document, _checked(Recipe, content, file)


def _changed(recipe: Recipe, file: Path, overrides: Mapping[str, Any]) -> Recipe:
    recipe = _anchored(recipe, file.parent)
    return recipe.override(overrides, where="command line") if overrides else recipe


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
    if file.parent == asset_folder("recipes"):
        return
    places: list[tuple[tuple[str, ...], str | None]] = [
        (keys, _text(document, keys)) for keys in _PATH_KEYS
    ]
    for key in _DATA_KEYS:
        spec = _text(document, ("data", key)) or ""
        parts = [spec] if is_bare_path(spec) else spec.partition(":")[2].split(",")
        places += [(("data", key), part) for part in parts]
    places += [(("build", *keys), text) for keys, text in _path_options(recipe).items()]
    for keys, text in places:
        steps = PurePath(text or "").parts
        if text and (PurePath(text).is_absolute() or ".." in steps or steps[0].startswith("~")):
            raise RecipeError(
                f"{file}:{_line(document, list(keys))}: `{'.'.join(keys)}` leaves the recipe's "
                f"folder: {text}.",
                hint="Give it on the command line, or pass --trust-recipe.",
            )


def _refuse_code(
    document: CommentedMap,
    recipe: Recipe,
    file: Path,
    overrides: Mapping[str, Any],
    *,
    keys: Sequence[str] = tuple(_CODE),
    hint: str = "",
) -> None:
    """A recipe may come from a stranger, and so may the code that it names."""
    if file.parent == asset_folder("recipes"):
        return
    for key in keys:
        code = _CODE[key](recipe)
        if code and key not in overrides:
            option = _OPTIONS.get(key, "on the command line")
            raise RecipeError(
                f"{file}:{_line(document, key.split('.'))}: `{key}` names Python code that would "
                f"run: {code}.",
                hint=f"Read it, then {hint or f'pass --trust-recipe, or give it {option}'}.",
            )


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
        spec = getattr(recipe.data, key) or ""
        kind, colon, rest = spec.partition(":")
        if is_bare_path(spec) and any(path.is_dir() for path in (folder / spec, Path(spec))):
            changes[f"data.{key}"] = str(folder / spec)
        elif colon:
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
