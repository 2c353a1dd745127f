"""Labels in the order of a network's classes: by name, by position, and where neither can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeres.data.arrays import ArrayDataset
from edgeres.data.class_order import in_order_of, part_note

NETWORK = ("tench, Tinca tinca", "Ankle boot", "T-shirt/top", "dog")


def images(*names, labels=None):
    found = np.arange(len(names)) if labels is None else np.array(labels)
    return ArrayDataset("d", np.zeros((len(found), 2, 2), np.uint8), found.astype(np.int64), names)


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (NETWORK, [0, 1, 2, 3], ""),
        (("tench", "ankle_boot", "t-shirt_top", "DOG"), [0, 1, 2, 3], ""),
        (("dog", "Ankle-Boot", "T-shirt top", "Tinca tinca"), [3, 1, 2, 0], "another order"),
        (("dog", "ankle boot"), [3, 1], "shows 2 of the network's 4 classes"),
    ],
)
def test_names_decide(names, labels, said):
    found = in_order_of(images(*names), NETWORK)
    assert found.dataset.labels.tolist() == labels
    assert found.dataset.class_names == NETWORK
    assert found.by_name or names == NETWORK
    assert said in found.note
    assert bool(found.note) == bool(said)
    assert found.is_part == (len(names) < len(NETWORK))


def test_names_that_say_nothing_leave_the_order_and_are_told():
    found = in_order_of(images("a", "b", "c", "d"), NETWORK)
    assert found.dataset.labels.tolist() == [0, 1, 2, 3]
    assert found.dataset.class_names == NETWORK
    assert "'tench, Tinca tinca' for 'a'" in found.note
    assert not found.by_name
    synsets = [f"n{k:08}" for k in range(4)]
    assert in_order_of(images(*synsets), NETWORK).note == ""


def test_a_set_without_names_takes_those_of_the_network():
    for given_names in ((), ("0", "1", "2", "3")):
        found = in_order_of(images(*given_names, labels=[3, 0]), NETWORK)
        assert found.dataset.labels.tolist() == [3, 0]
        assert found.dataset.class_names == NETWORK
        assert found.note == ""


def test_a_set_without_names_that_shows_a_part_is_told():
    assert part_note(images(labels=[3, 0, 3]), 4) == "d: shows 2 of the network's 4 classes."
    assert part_note(images(labels=[3, 0, 1, 2]), 4) == ""
    assert part_note(images("dog", "b"), 4) == ""  # names say which classes there are


@pytest.mark.parametrize("names", [("a", "b"), ("dog", "b"), ("dog", "dog")])
def test_other_numbers_of_classes_stay_for_the_check(names):
    given_set = images(*names)
    assert in_order_of(given_set, NETWORK).dataset is given_set


def test_names_that_occur_twice_do_not_decide():
    found = in_order_of(images("crane", "boat"), ("crane", "crane"))
    assert found.dataset.labels.tolist() == [0, 1]
    assert "by their position" in found.note


def test_images_without_a_label_stay_so():
    found = in_order_of(images("dog", "ankle boot", labels=[1, -1, 0]), NETWORK)
    assert found.dataset.labels.tolist() == [1, -1, 3]


@given(st.permutations([f"class {k}" for k in range(6)]))
def test_any_order_comes_back(order):
    names = [f"class {k}" for k in range(6)]
    found = in_order_of(images(*order), names)
    assert [names[label] for label in found.dataset.labels] == list(order)
