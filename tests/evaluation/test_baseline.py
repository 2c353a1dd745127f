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


def _exchanged(good: Predictions, mapping: dict[int, int]) -> Predictions:
    """The same answers, with images of a class labelled as another."""
    labels = np.array([mapping.get(label, label) for label in good.labels.tolist()])
    return dataclasses.replace(good, labels=labels)


@pytest.mark.parametrize(
    ("mapping", "told", "top1"),
    [
        ({2: 5, 5: 2}, "'2' is answered as '5'; '5' is answered as '2'", "0.7520"),
        ({1: 4, 4: 7, 7: 1}, "'1' is answered as '7'; '7' is answered as '4'", "0.6580"),
        ({0: 1, 1: 0, 8: 9, 9: 8}, "; ...", "0.5760"),
        (dict(zip(range(10), [0, 1, 9, 2, 3, 4, 5, 6, 7, 8], strict=True)), "; ...", "0.1880"),
    ],
)
def test_exchanged_labels_are_told_at_any_accuracy(answer, mapping, told, top1) -> None:
    wrong = _exchanged(answer(range(60)), mapping)
    with pytest.raises(DataError, match=f"top-1 is {top1} .* it is the labels") as caught:
        check_baseline(wrong)
    assert told in caught.value.message
    assert "top-1 would be 0.9400" in caught.value.message
    with pytest.raises(DataError, match="top-1 would be"):
        check_baseline(wrong, declared_top1=0.95)


def test_two_of_many_classes_are_told() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(10_000) % 200
    chosen = np.where(rng.random(10_000) < 0.7, labels, rng.integers(0, 200, 10_000))
    good = Predictions(np.eye(200, dtype=np.float32)[chosen], labels)
    check_baseline(good)
    with pytest.raises(DataError, match="'17' is answered as '90'; '90' is answered as '17'"):
        check_baseline(_exchanged(good, {17: 90, 90: 17}))


def test_one_based_labels_are_told_as_such(answer) -> None:
    good = answer(range(60))
    logits = np.pad(good.logits, ((0, 0), (0, 1)), constant_values=-1.0)
    with pytest.raises(DataError, match="near the") as caught:
        check_baseline(Predictions(logits, good.labels + 1))
    assert "off by +1 (the labels are 1-based: subtract 1)" in caught.value.hint
    for names in ((), tuple("abcdefghijk")):
        with pytest.raises(DataError) as refused:
            Predictions(good.logits, good.labels + 1, class_names=names)
        assert "1-based" in refused.value.hint
    # A network with a background class in front of the others, given labels without it.
    with pytest.raises(DataError, match="near the") as caught:
        check_baseline(Predictions(np.roll(logits, 1, axis=1), good.labels))
    assert "off by -1" in caught.value.hint


def test_classes_that_are_hard_to_tell_apart_are_not_exchanged() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(4000) % 10
    chosen = labels.copy()
    either = np.isin(labels, (3, 6))  # a coin decides between the two
    chosen[either] = np.where(rng.random(int(either.sum())) < 0.52, 9 - labels[either],
                              labels[either])  # fmt: skip
    check_baseline(Predictions(np.eye(10, dtype=np.float32)[chosen], labels))
    one_way = np.where(labels == 3, 6, labels)  # all of one class is taken for another
    check_baseline(Predictions(np.eye(10, dtype=np.float32)[one_way], labels))


def test_one_class_is_nothing_to_validate_with(answer) -> None:
    good = answer()
    labels = np.full_like(good.labels, 4)
    alone = dataclasses.replace(good, labels=labels, class_names=tuple("abcdefghij"))
    with pytest.raises(DataError, match="all 1000 images have the label 'e'") as caught:
        check_baseline(alone)
    assert caught.value.exit_code == 3
