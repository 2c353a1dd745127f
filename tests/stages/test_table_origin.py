"""What a table says that it was made from, and in which words a difference is told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ArtefactError
from edgeres.stages.table_origin import TableOrigin, _differs, preprocess_of

from .conftest import GREY, grey_images


def table(**made_from):
    return SimpleNamespace(made_from=made_from)


def test_what_is_written_is_what_is_read():
    now = TableOrigin.now(grey_images(), GREY)
    told = now.to_dict()
    assert list(told) == ["images", "samples", "preprocess", "made_by"]
    assert TableOrigin.of(table(**told)) == now
    assert preprocess_of(table(**told)) == GREY


def test_a_table_that_says_nothing_is_of_anything():
    assert TableOrigin.of(table()) == TableOrigin()
    assert preprocess_of(table()) is None
    assert _differs(TableOrigin(), TableOrigin()) == ""


def test_a_field_of_another_type_is_named():
    with pytest.raises(ArtefactError, match="made_from of the calibration table: samples: "):
        TableOrigin.of(table(samples="many"))


@pytest.mark.parametrize(
    ("images", "preprocess", "told"),
    [
        (grey_images(), Preprocess(mean=(0.5,), std=(0.353,), channels=1), "it was made with mean"),
        (grey_images(20), GREY, "it is of 40 images, now there are 20"),
        (grey_images(seed=1), GREY, "it was made with other images"),
    ],
)
def test_the_first_difference_is_told_in_words(images, preprocess, told):
    before = TableOrigin.now(grey_images(), GREY)
    assert _differs(before, TableOrigin.now(images, preprocess)).startswith(told)
    assert _differs(before, before) == ""


def test_another_version_is_told_last():
    before = TableOrigin.now(grey_images(), GREY)
    older = TableOrigin(before.images, before.samples, before.preprocess, {"code": "old"})
    assert _differs(older, before) == "another version of edgeres or of a library made it"
