"""Settings come from plain recipe values and say what is wrong with them."""

from __future__ import annotations

import dataclasses

import pytest

from edgeres.errors import UsageError
from edgeres.training.settings import TrainSettings


def test_mapping_round_trip() -> None:
    settings = TrainSettings(epochs=7, erase_area=(0.1, 0.2), threads=2, precision="bfloat16")
    assert TrainSettings.from_mapping(settings.to_mapping()) == settings


def test_lists_and_whole_numbers_fit() -> None:
    settings = TrainSettings.from_mapping({"erase_area": [0.1, 0.2], "learning_rate": 1})
    assert settings.erase_area == (0.1, 0.2)
    assert settings.learning_rate == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", True),
        ("learning_rate", "fast"),
        ("learning_rate", float("nan")),
        ("schedule", "linear"),
        ("flip", 1),
        ("erase_area", [0.5, 0.1]),
        ("erase_area", [0.5]),
        ("threads", 0),
        ("threads", "two"),
        ("ema_decay", 1.0),
        ("batch_size", 1),
        ("architecture", None),
    ],
)
def test_bad_values_name_the_key(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key):
        TrainSettings.from_mapping({key: value})


def test_unknown_key_lists_known_ones() -> None:
    with pytest.raises(UsageError, match="epoch") as caught:
        TrainSettings.from_mapping({"epoch": 3})
    assert "epochs" in caught.value.hint


def test_fingerprint_ignores_the_place_only() -> None:
    settings = TrainSettings()
    for field in dataclasses.fields(TrainSettings):
        other = {"device": "cpu", "threads": 3, "seed": 1, "epochs": 9, "flip": False}
        if field.name in other:
            changed = dataclasses.replace(settings, **{field.name: other[field.name]})
            same = changed.fingerprint() == settings.fingerprint()
            assert same == (field.name in {"device", "threads"})
