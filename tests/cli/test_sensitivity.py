"""``edgeres sensitivity``: how many images it measures on, and what it passes on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess

from .conftest import invoke

IMAGES = ArrayDataset("grey", np.zeros((40, 4, 4), np.uint8), np.zeros(40, np.int64))


@pytest.fixture
def measured(note, monkeypatch):
    monkeypatch.setattr("edgeres.report.sensitivity_table.sensitivity_table", lambda _: "a table")
    note("edgeres.quantization.isolate.try_model")
    note("edgeres.data.source.open_dataset", IMAGES)
    note("edgeres.pipeline.source.onnx_preprocess", Preprocess())
    note("edgeres.backends.target.rules_of", "rules")
    return note("edgeres.stages.int8.sensitivity", SimpleNamespace(to_dict=lambda: {"nodes": []}))


def test_the_images_are_opened_once_and_half_of_few_are_measured_on(measured):
    result = invoke("sensitivity", "n.onnx", "--target", "tpu", "--data", "npz:a", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"nodes": []}
    assert measured.options["data"] is IMAGES
    assert measured.options["samples"] == 20
    assert "few images: 20 of 40 are measured on (256 by default, --samples)." in result.stderr


def test_a_number_that_was_asked_for_is_kept(measured):
    options = ["--target", "tpu", "--data", "npz:a", "--samples", 30, "--all-but", "--threads", 2]
    result = invoke("sensitivity", "n.onnx", *options)
    assert "a table" in result.stdout
    assert measured.options["samples"] == 30
    assert (measured.options["all_but"], measured.options["threads"]) == (True, 2)
    assert "few images" not in result.stderr


def test_with_a_table_all_images_may_be_measured_on(measured, tmp_path):
    options = ["--target", "tpu", "--data", "npz:a", "--table", tmp_path / "t.json"]
    invoke("sensitivity", "n.onnx", *options)
    assert measured.options["samples"] == 40
