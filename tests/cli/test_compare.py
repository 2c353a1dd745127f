"""``edgeres compare``: B against A on the first images, prepared as the run of B did."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess

from .conftest import invoke

IMAGES = ArrayDataset("grey", np.zeros((40, 4, 4), np.uint8), np.arange(40) % 10)


@pytest.fixture
def compared(note, monkeypatch):
    monkeypatch.setattr("edgeres.report.compare_table.layers_table", lambda _: "a table")
    note("edgeres.data.source.open_dataset", IMAGES)
    note("edgeres.evaluation.run_preprocess.run_preprocess", Preprocess())
    return note(
        "edgeres.evaluation.layerwise.compare", SimpleNamespace(to_dict=lambda: {"layers": []})
    )


def test_both_models_and_no_more_images_than_there_are(compared):
    result = invoke("compare", "a.onnx", "b.onnx", "--samples", 50, "--source", "q.onnx", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"layers": []}
    a, b, images, preprocess = compared.args
    assert (a, b) == (Path("a.onnx"), Path("b.onnx"))
    assert len(images) == 40
    assert preprocess == Preprocess()
    assert compared.options["sources"] == [Path("q.onnx")]
    assert compared.options["isolate"] is True


def test_the_preprocessing_is_looked_for_beside_b_first(compared, note):
    seen = note("edgeres.evaluation.run_preprocess.run_preprocess", Preprocess())
    assert "a table" in invoke("compare", "a.onnx", "b.onnx", "--mean", "0.5").stdout
    models, fields = seen.args
    assert models == [Path("b.onnx"), Path("a.onnx")]
    assert list(fields["mean"]) == [0.5]
    assert len(compared.args[2]) == 32
