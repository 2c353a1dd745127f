"""The held-out part: balanced, disjoint, seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.errors import DataError
from edgeres.training.split import split_held_out


@settings(deadline=None)
@given(classes=st.integers(1, 7), each=st.integers(5, 30), count=st.integers(0, 20))
def test_balanced_disjoint_and_complete(classes: int, each: int, count: int) -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(classes), each))
    count = min(count, classes * (each - 1))
    training, held_out = split_held_out(labels, count, seed=3)
    assert len(held_out) == count
    assert sorted([*training, *held_out]) == list(range(len(labels)))
    members = np.bincount(labels[held_out], minlength=classes)
    assert members.max(initial=0) - members.min(initial=count) <= 1


def test_seed_decides() -> None:
    labels = np.arange(100) % 5
    first = split_held_out(labels, 20, seed=0)[1]
    assert np.array_equal(first, split_held_out(labels, 20, seed=0)[1])
    assert not np.array_equal(first, split_held_out(labels, 20, seed=1)[1])


def test_a_class_keeps_at_least_one_image() -> None:
    with pytest.raises(DataError, match="Class 1"):
        split_held_out(np.array([0, 0, 0, 0, 1, 1]), 4, seed=0)
