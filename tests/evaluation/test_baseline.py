"""A baseline that cannot be right is stopped, with the labels named that were exchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeres.errors import DataError, ModelError
from edgeres.evaluation.baseline import check_baseline
from edgeres.evaluation.permuted import best_label_map
from edgeres.evaluation.predictions import Predictions


def test_a_good_baseline_is_left_alone(answer) -> None:
    check_baseline(answer(range(60)))
    check_baseline(answer(range(60)), declared_top1=0.94)
    check_baseline(answer(range(60)), declared_top1=0.96)  # within what 1,000 samples can tell


def test_permuted_labels_are_named(answer) -> None:
    good = answer(range(60))
    shuffled = dataclasses.replace(
        good, labels=(good.labels + 3) % 10, class_names=tuple("abcdefghij")
    )
    with pytest.raises(DataError, match=r"near the 0\.1000 that guessing") as caught:
        check_baseline(shuffled)
    assert "'a' is answered as 'h'" in caught.value.hint
    assert "0.9400" in caught.value.hint


def test_random_answers_are_no_permutation() -> None:
    rng = np.random.default_rng(1)
    guess = Predictions(rng.random((2000, 10), dtype=np.float32), np.arange(2000) % 10)
    with pytest.raises(DataError, match="guessing") as caught:
        check_baseline(guess)
    assert "permuted" not in caught.value.hint
    assert "preprocessing" in caught.value.hint


def test_one_answer_for_all_is_guessing_even_when_labels_are_skewed() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    constant = Predictions(np.tile(np.array([[1, 0]], dtype=np.float32), (1000, 1)), labels)
    with pytest.raises(DataError, match=r"0\.9000 that guessing"):
        check_baseline(constant)


def test_weak_model_of_many_classes_is_not_chance() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(5000) % 1000
    logits = rng.random((5000, 1000), dtype=np.float32)
    logits[np.arange(5000), labels] += np.where(rng.random(5000) < 0.3, 1, 0)
    check_baseline(Predictions(logits, labels))


def test_far_below_the_declared_accuracy(answer) -> None:
    with pytest.raises(DataError, match=r"0\.7000 .* declared 0\.9400"):
        check_baseline(answer(range(300)), declared_top1=0.94)


def test_two_exchanged_labels_below_declared_are_named(answer) -> None:
    good = answer()
    labels = good.labels.copy()
    labels[good.labels == 2], labels[good.labels == 5] = 5, 2
    with pytest.raises(DataError) as caught:
        check_baseline(dataclasses.replace(good, labels=labels), declared_top1=0.95)
    assert "'2' is answered as '5'; '5' is answered as '2'" in caught.value.hint


def test_label_map_keeps_what_is_right(answer) -> None:
    assert best_label_map(answer(range(60))) == (tuple(range(10)), pytest.approx(0.94))


def test_few_samples_are_never_called_permuted(answer) -> None:
    few = Predictions(answer().logits[:20], (answer().labels[:20] + 1) % 10)
    with pytest.raises(DataError) as caught:
        check_baseline(few)
    assert "permuted" not in caught.value.hint


def test_nan_in_fp32_is_the_models_fault(answer) -> None:
    logits = answer().logits.copy()
    logits[0] = np.nan
    with pytest.raises(ModelError, match="1 of 1000"):
        check_baseline(dataclasses.replace(answer(), logits=logits))
