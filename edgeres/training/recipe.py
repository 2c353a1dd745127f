"""A training recipe: data, preprocessing and settings of one run, in YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeres.data.preprocess import Preprocess
from edgeres.errors import RecipeError, UsageError
from edgeres.system.yaml_file import plain, read_yaml
from edgeres.training.settings import TrainSettings

_KEYS = ("data", "preprocess", "training")


@dataclass(frozen=True)
class TrainingRecipe:
    """What ``edgeres train RECIPE`` runs.

    Attributes:
        data: As :func:`edgeres.data.source.open_dataset` takes it.
        preprocess: ``None`` takes that of the start checkpoint.
        settings: Of the run.
        held_out_given: Whether the recipe says how many images choose the epoch.
    """

    data: str
    preprocess: Preprocess | None
    settings: TrainSettings
    held_out_given: bool = False


def load_training_recipe(path: Path) -> TrainingRecipe:
    """Reads and checks a training recipe.

    The file has the keys ``data`` (text), ``preprocess`` (as in every recipe; may be left out
    where a checkpoint is fine-tuned) and ``training`` (fields of :class:`TrainSettings`).

    Raises:
        RecipeError: No such file, not YAML, duplicate or unknown key, wrong type or value.
    """
    content = plain(read_yaml(path, what="a training recipe", error=RecipeError))
    if not set(content) <= set(_KEYS) or "data" not in content:
        got = sorted(map(str, content))
        raise RecipeError(f"{path}: expected the keys {', '.join(_KEYS)}, got {got}.")
    data, preprocess, training = (content.get(key) for key in _KEYS)
    if not isinstance(data, str):
        raise RecipeError(f"{path}: expected text for 'data', got {data!r}.")
    for key, block in (("preprocess", preprocess), ("training", training)):
        if not isinstance(block, dict | None):
            raise RecipeError(f"{path}: expected a mapping for '{key}', got {block!r}.")
    try:
        return TrainingRecipe(
            data=data,
            preprocess=None if preprocess is None else Preprocess.from_dict(preprocess),
            settings=TrainSettings.from_mapping(training or {}),
            held_out_given="held_out" in (training or {}),
        )
    except UsageError as error:
        raise RecipeError(f"{path}: {error.message}", hint=error.hint) from error
