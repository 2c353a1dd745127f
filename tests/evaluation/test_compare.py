"""Paired comparison: every number by hand on answers that were made for it."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.compare import compare, finite_sqnr_db, top_k
from edgeres.evaluation.predictions import Predictions


def test_counts_by_hand(answer) -> None:
    # Baseline wrong at 0..59; the candidate repairs 0..9 and loses 100..129.
    baseline = answer(range(60))
    candidate = answer([*range(10, 60), *range(100, 130)])
    c = compare(baseline, candidate)
    assert (c.baseline_top1, c.top1) == (pytest.approx(0.94), pytest.approx(0.92))
    assert (c.flips.lost, c.flips.gained) == (30, 10)
    assert c.drop_pp == pytest.approx(2.0)
    assert c.agreement == pytest.approx(0.96)
    assert c.drop_lower_pp < 2.0 < c.drop_upper_pp
    assert c.p_value == pytest.approx(0.0022, abs=2e-4)
    assert c.top1_interval[0] < 0.92 < c.top1_interval[1]
    assert (c.nan_samples, c.inf_samples) == (0, 0)


def test_equal_answers(answer) -> None:
    c = compare(answer([1]), answer([1]))
    assert (c.drop_pp, c.agreement, c.sqnr_db, c.p_value) == (0.0, 1.0, None, 1.0)
    assert c.drop_upper_pp > 0  # a thousand equal answers are no proof of equality


def test_sqnr_is_the_contracts_formula(answer) -> None:
    baseline, candidate = answer(), answer(noise=0.1)
    exact = baseline.logits.astype(float)
    ratio = (exact**2).sum() / ((exact - candidate.logits) ** 2).sum()
    assert compare(baseline, candidate).sqnr_db == pytest.approx(10 * math.log10(ratio))


def test_sqnr_by_hand_and_over_many_rows() -> None:
    reference = np.full((20_000, 3), 10, dtype=np.float32)
    assert finite_sqnr_db(reference, reference + 1) == pytest.approx(20.0)
    assert finite_sqnr_db(reference, reference) is None
    other = reference.copy()
    other[-1] += 1  # in the last block of rows
    assert finite_sqnr_db(reference, other) == pytest.approx(20 + 10 * math.log10(20_000))


def test_broken_outputs_are_told_apart_from_lost_accuracy(answer) -> None:
    logits = answer().logits.copy()
    logits[0, 3] = np.nan
    logits[1] = np.inf
    logits[2, 2] = -np.inf
    candidate = dataclasses.replace(answer(), logits=logits)
    c = compare(answer(), candidate)
    assert (c.nan_samples, c.inf_samples) == (1, 2)
    assert (c.flips.lost, c.agreement) == (3, pytest.approx(0.997))
    assert c.sqnr_db is None  # the finite rows are equal
    json.dumps(c.to_dict(), allow_nan=False)


def test_all_broken_is_still_told(answer) -> None:
    logits = np.full_like(answer().logits, np.nan)
    c = compare(answer(), dataclasses.replace(answer(), logits=logits))
    assert (c.top1, c.nan_samples, c.sqnr_db, c.top5) == (0.0, 1000, None, 0.0)


def test_top5_counts_ties_in_class_order() -> None:
    logits = np.zeros((2, 10), dtype=np.float32)
    logits[1] = -np.arange(10)
    tied = Predictions(logits=logits, labels=np.array([4, 5]))
    assert top_k(tied, 5) == 0.5
    assert top_k(tied, 6) == 1.0
    assert top_k(Predictions(logits=logits[:, :5], labels=np.array([0, 0])), 5) is None


def test_one_bad_class_is_named_and_no_other(answer) -> None:
    lost = list(range(7, 200, 10))  # 20 samples of class 7
    spread = list(range(300, 310))  # one sample of each class
    baseline = dataclasses.replace(answer(), class_names=tuple("abcdefghij"))
    c = compare(baseline, answer([*lost, *spread]))
    assert [w.name for w in c.worse_classes] == ["h"]
    worst = c.class_drops[0]
    assert (worst.samples, worst.lost, worst.gained) == (100, 21, 0)
    assert worst.drop_pp == pytest.approx(21.0)
    assert worst.p_value == pytest.approx(10 * 0.5**21)
    assert len(c.class_drops) == 10


def test_noise_names_no_class() -> None:
    # Equal models over 50 classes: at most one report in twenty may name a class.
    rng = np.random.default_rng(5)
    labels = np.arange(2500) % 50
    named = 0
    for _ in range(40):
        answers = []
        for _ in range(2):
            chosen = np.where(rng.random(2500) < 0.1, (labels + 1) % 50, labels)
            answers.append(Predictions(np.eye(50, dtype=np.float32)[chosen], labels))
        named += bool(compare(*answers).worse_classes)
    assert named <= 4


def test_empty_classes_are_left_out() -> None:
    answers = Predictions(np.eye(4, dtype=np.float32)[[0, 2]], np.array([0, 2]))
    assert [c.label for c in compare(answers, answers).class_drops] == [0, 2]


def test_other_data_or_models_are_refused(answer) -> None:
    with pytest.raises(DataError, match="another data set"):
        compare(answer(data_fingerprint="a"), answer(data_fingerprint="b"))
    shorter = Predictions(answer().logits[:10], answer().labels[:10])
    with pytest.raises(DataError, match="1000 and 10 samples"):
        compare(answer(), shorter)
    with pytest.raises(DataError, match="same labels"):
        compare(answer(), dataclasses.replace(answer(), labels=answer().labels[::-1].copy()))
    fewer = Predictions(np.zeros((1000, 11), dtype=np.float32), answer().labels)
    with pytest.raises(ModelError, match="10 classes, the candidate 11"):
        compare(answer(), fewer)


def test_broken_baseline_is_refused(answer) -> None:
    logits = answer().logits.copy()
    logits[5, 0] = np.nan
    broken = dataclasses.replace(answer(), logits=logits)
    with pytest.raises(ModelError, match="1 of 1000 outputs"):
        compare(broken, answer())
