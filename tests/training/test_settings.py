"""Each kind of training knows its keys, and says what is wrong with a value."""

from __future__ import annotations

from typing import Any

import pytest

from edgeres.errors import UsageError
from edgeres.recipe.training import FinetuneSettings, QatSettings, SparseSettings, TrainSettings


def test_lists_and_whole_numbers_fit() -> None:
    values: dict[str, Any] = {"erase_area": [0.1, 0.2], "learning_rate": 1}
    settings = TrainSettings(**values)
    assert settings.erase_area == (0.1, 0.2)
    assert settings.learning_rate == 1.0


@pytest.mark.parametrize("kind", [TrainSettings, FinetuneSettings, SparseSettings, QatSettings])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", True),
        ("learning_rate", "fast"),
        ("learning_rate", float("nan")),
        ("learning_rate", 100.0),
        ("schedule", "linear"),
        ("flip", 1),
        ("erase_area", [0.5, 0.1]),
        ("erase_area", [0.5]),
        ("threads", 0),
        ("threads", "two"),
        ("ema_decay", 1.0),
        ("batch_size", 1),
        ("precision", "int8"),
    ],
)
def test_bad_values_name_the_key_in_one_line(kind: Any, key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key) as caught:
        kind(**{key: value})
    assert str(caught.value).startswith(f"{kind.__name__}: ")
    assert "\n" not in str(caught.value)
    assert "got" in str(caught.value) or "missing" in str(caught.value)


def test_unknown_key_names_the_known_one() -> None:
    with pytest.raises(UsageError, match=r"unknown key `epoch`. Did you mean `epochs`\?"):
        TrainSettings(**{"epoch": 3})


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (TrainSettings, "distill"),
        (TrainSettings, "strength"),
        (FinetuneSettings, "architecture"),
        (SparseSettings, "held_out"),
        (SparseSettings, "distill_weight"),
        (QatSettings, "zero_init_residual"),
    ],
)
def test_a_key_without_meaning_for_a_kind_is_unknown_to_it(kind: Any, key: str) -> None:
    with pytest.raises(UsageError, match=f"unknown key `{key}`"):
        kind(**{key: 1})


def test_without_a_teacher_its_weight_is_refused() -> None:
    assert FinetuneSettings(epochs=3).distill
    with pytest.raises(UsageError, match="`distill_weight` has no effect"):
        QatSettings(distill=False, distill_weight=0.5)


def test_the_key_leaves_the_place_out_only() -> None:
    settings = TrainSettings()
    other = {"device": "cpu", "threads": 3, "seed": 1, "epochs": 9, "flip": False, "time_mask": 2}
    for name, value in other.items():
        same = settings.replace(**{name: value}).key() == settings.key()
        assert same == (name in {"device", "threads"})
    of_sounds = {"time_shift", "time_mask", "frequency_mask"}  # where they are used
    left_out = {"device", "threads", *of_sounds}
    assert set(settings.key()) == set(TrainSettings.model_fields) - left_out
    assert set(settings.replace(**dict.fromkeys(of_sounds, 1)).key()) >= of_sounds
