"""Whole small trainings: they learn, resume to the same weights, and refuse what does not fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError, DataError, StageError, UsageError
from edgeres.models.build import build_model, plan_for
from edgeres.models.checkpoint import Checkpoint, load_checkpoint, load_module
from edgeres.recipe.training import FinetuneSettings, TrainSettings
from edgeres.training.loop import STATE_NAME, TrainResult, train

MakeSet = Callable[..., ArrayDataset]


def state_of(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_checkpoint(result.checkpoint).state


def assert_same_weights(first: TrainResult, second: TrainResult) -> None:
    for name, tensor in state_of(first).items():
        assert torch.equal(tensor, state_of(second)[name]), name


def test_learns_logs_and_reports(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    settings = settings.replace(epochs=5)
    seen: list[tuple[int, int]] = []
    result = train(
        settings,
        make_set(192),
        make_set(48, 1),
        tmp_path,
        preprocess=preprocess,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.history[-1].loss < 0.7 * result.history[0].loss
    assert result.held_out_top1 > 0.9
    assert seen == [(step, 30) for step in range(1, 31)]
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert lines == [dataclasses.asdict(record) for record in result.history]
    best = max(record.held_out_top1 for record in result.history)
    assert result.held_out_top1 == best
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.preprocess == preprocess
    assert checkpoint.class_names == ("dark", "left", "right")
    assert json.loads(checkpoint.metadata["training"])["epochs"] == 5
    data = make_set(48, 1)
    logits = load_module(checkpoint)(torch.from_numpy(preprocess.normalize(data.images)))
    right = float((logits.argmax(1).numpy() == data.labels).mean())
    assert right == pytest.approx(result.held_out_top1)


@pytest.mark.parametrize("after", [1, 9])
def test_killed_run_resumes_to_the_same_weights(
    tmp_path: Path,
    settings: TrainSettings,
    preprocess: Preprocess,
    make_set: MakeSet,
    after: int,
) -> None:
    data, check = make_set(192), make_set(48, 1)
    whole = train(settings, data, check, tmp_path / "whole", preprocess=preprocess)

    def interrupt(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(settings, data, check, cut, preprocess=preprocess, progress=interrupt)
    assert {p.name for p in cut.iterdir()} <= {STATE_NAME, "train_log.jsonl"}
    resumed = train(settings, data, check, cut, preprocess=preprocess)
    assert resumed.resumed_from == after // 6
    assert [r.loss for r in resumed.history] == [r.loss for r in whole.history]
    assert_same_weights(whole, resumed)


def test_finished_run_trains_no_more(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    settings = settings.replace(epochs=1)
    first = train(settings, make_set(64), make_set(12, 1), tmp_path, preprocess=preprocess)
    content = first.checkpoint.read_bytes()
    again = train(
        settings,
        make_set(64),
        make_set(12, 1),
        tmp_path,
        preprocess=preprocess,
        progress=lambda done, total: pytest.fail("trained again"),
    )
    assert again.resumed_from == 1
    assert again.history == first.history
    assert again.checkpoint.read_bytes() == content


def test_state_of_another_training_is_refused(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    settings = settings.replace(epochs=1)
    train(settings, make_set(64), make_set(12, 1), tmp_path, preprocess=preprocess)
    with pytest.raises(ArtefactError, match="other settings"):
        train(settings, make_set(64, 7), make_set(12, 1), tmp_path, preprocess=preprocess)
    (tmp_path / STATE_NAME).write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(ArtefactError, match="damaged"):
        train(settings, make_set(64), make_set(12, 1), tmp_path, preprocess=preprocess)


def test_mixed_precision_keeps_float32_weights(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    mixed = settings.replace(epochs=1, precision="bfloat16")
    result = train(mixed, make_set(64), make_set(12, 1), tmp_path, preprocess=preprocess)
    exact = settings.replace(epochs=1)
    other = train(exact, make_set(64), make_set(12, 1), tmp_path / "f", preprocess=preprocess)
    assert result.history[0].loss == pytest.approx(other.history[0].loss, rel=0.05)
    assert result.history[0].loss != other.history[0].loss
    assert state_of(result)["conv1.weight"].dtype == torch.float32


PLAN = plan_for("resnet20", num_classes=3, in_channels=1, width_multiplier=0.5)


def taught_by(settings: TrainSettings, **changes: Any) -> FinetuneSettings:
    """The same training, with a teacher."""
    same = settings.model_fields_set & set(FinetuneSettings.model_fields)
    return FinetuneSettings(**{name: getattr(settings, name) for name in same} | changes)


def untrained(preprocess: Preprocess) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(PLAN, build_model(PLAN).state_dict(), preprocess)


class Backwards(nn.Module):
    """A teacher that always tells the next class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        said = torch.where(left > right + 0.3, 2, torch.where(right > left + 0.3, 0, 1))
        return 12.0 * nn.functional.one_hot(said, 3).float()


def test_student_follows_its_teacher_against_the_labels(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    taught = taught_by(settings, epochs=6, distill_weight=1.0, ema_decay=0.0, erase_probability=0.0)
    check = make_set(48, 1)
    result = train(
        taught, make_set(192), check, tmp_path, start=untrained(preprocess), teacher=Backwards()
    )
    assert result.held_out_top1 < 0.5  # by the labels
    module = load_module(load_checkpoint(tmp_path / "model.safetensors"))
    module.load_state_dict(torch.load(tmp_path / STATE_NAME, weights_only=True)["module"])
    images = torch.from_numpy(preprocess.normalize(check.images))
    told = Backwards()(images).argmax(1)
    assert float((module(images).argmax(1) == told).float().mean()) > 0.9


def test_state_taught_by_another_teacher_is_refused(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    taught, start = taught_by(settings, epochs=1, distill_weight=0.5), untrained(preprocess)

    def run(teacher: nn.Module) -> TrainResult:
        data, check = make_set(64), make_set(12, 1)
        return train(taught, data, check, tmp_path, start=start, teacher=teacher)

    teacher = build_model(PLAN)
    run(teacher)
    assert run(teacher).resumed_from == 1
    with pytest.raises(ArtefactError, match="belongs to a training"):
        run(build_model(PLAN))


def test_fine_tuning_starts_from_the_checkpoint(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    plan = plan_for("resnet20", num_classes=3, in_channels=1, width_multiplier=0.5)
    widths = dict(plan.widths) | {"layer2.0.conv1": 11}
    plan = dataclasses.replace(plan, widths=widths)
    start = Checkpoint(plan, build_model(plan).state_dict(), preprocess)
    still = settings.replace(epochs=1, learning_rate=1e-9, weight_decay=0.0)
    result = train(still, make_set(64), make_set(12, 1), tmp_path, start=start)
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.plan == plan
    assert checkpoint.preprocess == preprocess
    for name, tensor in checkpoint.state.items():
        if name.endswith("weight"):
            assert torch.allclose(tensor, start.state[name], atol=1e-5), name


def test_what_does_not_fit_is_said_before_training(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    data, check = make_set(64), make_set(12, 1)
    with pytest.raises(UsageError, match="preprocessing"):
        train(settings, data, check, tmp_path / "a")
    taught = taught_by(settings)
    with pytest.raises(UsageError, match="teacher"):
        train(taught, data, check, tmp_path / "a", start=untrained(preprocess))
    with pytest.raises(UsageError, match="FinetuneSettings name no architecture"):
        train(taught.replace(distill=False), data, check, tmp_path / "a", preprocess=preprocess)
    empty = data.subset([])
    with pytest.raises(DataError, match="no images"):
        train(settings, empty, check, tmp_path / "a", preprocess=preprocess)
    plan = plan_for("resnet20", num_classes=2, in_channels=1, width_multiplier=0.5)
    start = Checkpoint(plan, build_model(plan).state_dict(), preprocess)
    with pytest.raises(DataError, match="labels 0 to 2"):
        train(settings, data, check, tmp_path / "a", start=start)
    colour = Preprocess(mean=(0.3,), std=(0.4,), channels=3)
    with pytest.raises(DataError, match="channels"):
        train(settings, data, check, tmp_path / "a", start=start, preprocess=colour)
    assert not (tmp_path / "a").exists()


def test_diverging_loss_stops_the_run(
    tmp_path: Path, settings: TrainSettings, preprocess: Preprocess, make_set: MakeSet
) -> None:
    plan = plan_for("resnet20", num_classes=3, in_channels=1, width_multiplier=0.5)
    state = build_model(plan).state_dict()
    state["fc.weight"] = torch.full_like(state["fc.weight"], 1e38)
    start = Checkpoint(plan, state, preprocess)
    with pytest.raises(StageError, match="epoch 1"):
        train(settings, make_set(64), make_set(12, 1), tmp_path, start=start)
    assert not (tmp_path / STATE_NAME).exists()
