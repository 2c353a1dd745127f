"""Fewer images than there are: balanced, the same every time, and never more than exist."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.data.arrays import ArrayDataset
from edgeres.data.sampling import take
from edgeres.errors import DataError


def _dataset(labels):
    labels = np.asarray(labels, np.int64)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1)
    return ArrayDataset("toy", images, labels, ("a", "b", "c"))


@given(st.lists(st.integers(0, 2), min_size=2, max_size=60), st.data())
def test_classes_are_balanced_as_far_as_the_set_allows(labels, data):
    samples = data.draw(st.integers(1, len(labels)))
    taken = take(_dataset(labels), samples)
    assert len(taken) == samples
    have, got = np.bincount(labels, minlength=3), np.bincount(taken.labels, minlength=3)
    for one in range(3):
        for other in range(3):
            if got[one] < have[one]:  # more of this class were there to take
                assert got[other] <= got[one] + 1


def test_whole_set_keeps_its_order():
    dataset = _dataset([2, 0, 1])
    assert take(dataset, None) is dataset
    assert take(dataset, 3) is dataset


def test_more_than_there_are_is_an_error():
    with pytest.raises(DataError, match=r"4 images were asked for, the set has 3"):
        take(_dataset([0, 1, 2]), 4)
