"""What a training keeps: never less than what it began with, raw weights where they are better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.models.checkpoint import load_checkpoint
from edgeres.recipe.training import TrainSettings
from edgeres.training.loop import TrainResult, train

MakeSet = Callable[..., ArrayDataset]


def of(settings: TrainSettings, **changes: Any) -> TrainSettings:
    return TrainSettings(**{**settings.model_dump(), **changes})


@pytest.fixture
def begun(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> TrainResult:
    return train(
        of(settings, epochs=4),
        make_set(192),
        make_set(48, 1),
        tmp_path / "begun",
        preprocess=preprocess,
    )


@pytest.mark.parametrize("keep_start", [True, False])
def test_a_training_that_ruins_the_network_gives_the_start_back(
    tmp_path: Path, settings: TrainSettings, make_set: MakeSet, begun: TrainResult, keep_start: bool
) -> None:
    """A rate far too high, and labels of nothing: no epoch is as good as the start."""
    noise = make_set(192, 5)
    data = ArrayDataset("noise", noise.images, (noise.labels + 1) % 3, noise.class_names)
    start = load_checkpoint(begun.checkpoint)
    result = train(
        of(settings, epochs=2, learning_rate=0.5),
        data,
        make_set(48, 1),
        tmp_path / "worse",
        start=start,
        keep_start=keep_start,
    )
    kept = load_checkpoint(result.checkpoint)
    same = all(torch.equal(kept.state[name], tensor) for name, tensor in start.state.items())
    assert same == keep_start
    if keep_start:
        assert (result.best_epoch, result.weights) == (0, "start")
        assert result.held_out_top1 == result.start_top1 == begun.held_out_top1
        assert kept.metadata["weights"] == "start"
    else:
        assert result.start_top1 is None
        assert result.best_epoch > 0


def test_an_average_that_lags_behind_is_not_kept(
    tmp_path: Path,
    settings: TrainSettings,
    preprocess: Preprocess,
    make_set: MakeSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An average that never moves from the random start."""
    monkeypatch.setattr("edgeres.training.ema.MovingAverage.update", lambda self: None)
    result = train(
        of(settings, epochs=4), make_set(192), make_set(48, 1), tmp_path, preprocess=preprocess
    )
    assert result.weights == "raw"
    assert result.held_out_top1 > 0.8
    assert {record.weights for record in result.history} <= {"raw", "averaged"}


def test_a_resumed_training_remembers_its_start(
    tmp_path: Path, settings: TrainSettings, make_set: MakeSet, begun: TrainResult
) -> None:
    start = load_checkpoint(begun.checkpoint)
    worse = of(settings, epochs=3, learning_rate=0.5)
    noise = make_set(192, 5)
    data = ArrayDataset("noise", noise.images, (noise.labels + 1) % 3, noise.class_names)

    def stop(done: int, total: int) -> None:
        if done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(worse, data, make_set(48, 1), tmp_path / "cut", start=start, progress=stop)
    result = train(worse, data, make_set(48, 1), tmp_path / "cut", start=start)
    assert result.resumed_from == 2
    assert (result.best_epoch, result.start_top1) == (0, begun.held_out_top1)
