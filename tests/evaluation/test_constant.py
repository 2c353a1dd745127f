"""An engine that answers the same for all images, or never one of the classes, is no engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, ModelError
from edgeres.evaluation.compare import compare
from edgeres.evaluation.gates import accuracy_check
from edgeres.evaluation.validate import validate
from edgeres.recipe.gates import Limits

from .conftest import template_model

PLAIN = Preprocess(scale=1 / 255, channels=1)


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    """Builds the templates' network with other weights or another bias."""
    import onnx

    def made(**changes) -> Path:
        backend = get_backend("onnxruntime")
        onnx.save(template_model(**changes), tmp_path / "source.onnx")
        out = tmp_path / f"model{backend.engine_suffix}"
        backend.build(tmp_path / "source.onnx", out, BuildConfig())
        return out

    return made


@pytest.mark.parametrize(
    "changes",
    [
        {"contrast": 0.0},  # all scores are 0
        {"contrast": 0.0, "bias": (0.1, 0.3, 0.2)},
        {"contrast": 1e-3},  # the right classes by a hair's breadth: nothing but noise is left
        {"bias": (0.0, 100.0, 0.0)},  # the scores follow the image, the answer does not
    ],
)
def test_one_answer_for_all_is_refused(engines, shapes, build, changes) -> None:
    with pytest.raises(ModelError, match="answers the same for all images") as caught:
        validate(build(**changes), shapes, PLAIN, baseline=engines["fp32"])
    assert caught.value.exit_code == 3


def test_a_rare_class_does_not_hide_it(engines, shapes, build) -> None:
    """99.5 % of the images are of one class: always answering it costs half a point only."""
    baseline = validate(engines["fp32"], shapes, PLAIN, baseline=engines["fp32"]).baseline
    often = np.flatnonzero((shapes.labels == 0) & baseline.correct)
    rare = np.flatnonzero((shapes.labels == 1) & baseline.correct)[:2]
    pick = shapes.subset([*np.tile(often, 3)[:398], *rare])
    always = build(bias=(100.0, 0.0, 0.0))
    with pytest.raises(ModelError, match="the same for all"):
        validate(always, pick, PLAIN, baseline=engines["fp32"], limits=Limits(max_drop=50.0))


def test_one_class_of_images_is_refused(engines, shapes) -> None:
    only = shapes.subset(np.flatnonzero(shapes.labels == 1).tolist())
    with pytest.raises(DataError, match="all 400 images have the label 'bottom'") as caught:
        validate(engines["int8"], only, PLAIN, baseline=engines["fp32"])
    assert caught.value.exit_code == 3


def test_a_class_that_is_never_answered_fails_whatever_the_drop(answer) -> None:
    good = answer()
    logits = good.logits.copy()
    logits[:, 7] -= 100.0
    mute = dataclasses.replace(good, logits=logits)
    check = accuracy_check(compare(good, mute), 50.0)
    assert check.outcome == "fail"
    assert "never answers '7'" in check.reason
    # Two images of a class prove nothing.
    few = np.flatnonzero((good.labels != 7) | (np.arange(1000) < 20))
    some, less = (dataclasses.replace(p, logits=p.logits[few], labels=p.labels[few])
                  for p in (good, mute))  # fmt: skip
    assert accuracy_check(compare(some, less), 50.0).outcome == "pass"


def test_equal_answers_of_both_are_the_baselines_affair(answer) -> None:
    good = answer()
    flat = dataclasses.replace(good, logits=np.tile(good.logits[:1], (1000, 1)))
    assert compare(good, flat).constant
    assert not compare(flat, flat).constant
    assert not compare(good, good).constant
    assert accuracy_check(compare(good, flat), 100.0).outcome == "fail"
