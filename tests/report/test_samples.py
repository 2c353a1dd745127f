"""How figures are spread over the samples, and the pictures of what a network says of pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.files import FileDataset
from edgeres.errors import ArtefactError
from edgeres.report import charts
from edgeres.report.pictures import save_class_map
from edgeres.report.samples import (
    SAMPLES,
    SampleEvidence,
    WorstSample,
    read_samples,
    sample_name,
    spread_of,
    write_samples,
)


def test_shares_of_the_bins_add_up_whatever_is_no_number() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=5000)
    values[:3] = np.nan, np.inf, -np.inf
    found = spread_of("error", {"FP32": {"": values}, "engine": {"a": values + 1, "b": values}})
    assert found is not None
    for kinds in found.shares.values():
        for shares in kinds.values():
            assert sum(shares) == pytest.approx(100, abs=0.05)
    assert found.low < -2 < 3 < found.high
    middle = np.linspace(found.low, found.high, len(found.shares["FP32"][""]))
    means = [
        np.average(middle, weights=k) for kinds in found.shares.values() for k in kinds.values()
    ]
    assert means[1] - means[0] == pytest.approx(1, abs=0.1)
    assert means[2] == pytest.approx(means[0])


@pytest.mark.parametrize("values", [[], [np.nan, np.inf], [2.0] * 9])
def test_nothing_to_see_is_nothing(values: list[float]) -> None:
    assert spread_of("x", {"FP32": {"": np.array(values)}}) is None


def test_the_chart_names_the_models_and_kinds_that_there_are() -> None:
    both = spread_of("cosine", {
        model: {"the same": np.linspace(0.5, 1, 99), "others": np.linspace(0, 0.6, 99)}
        for model in ("FP32", "engine")
    })  # fmt: skip
    alone = spread_of("noise, dB", {"engine": {"": np.linspace(20, 40, 99)}})
    assert both is not None
    assert alone is not None
    drawn = charts.spread(both, "INT8")
    assert all(f">{word}<" in drawn for word in ("FP32", "INT8", "the same", "others", "cosine"))
    assert ">FP32<" not in charts.spread(alone, "INT8")


def test_each_class_of_a_map_has_its_own_colour(tmp_path: Path) -> None:
    classes = np.arange(12).reshape(3, 4)
    name = save_class_map(tmp_path, "map", classes)
    picture = np.asarray(Image.open(tmp_path / name))
    assert picture.shape == (72, 96, 3)
    centres = picture[12::24, 12::24].reshape(12, 3)
    assert len({tuple(colour) for colour in centres.tolist()}) == 12
    large = np.asarray(
        Image.open(tmp_path / save_class_map(tmp_path, "l", np.ones((200, 100), int)))
    )
    assert large.shape == (96, 48, 3)


def test_what_is_written_is_read_and_damage_is_told(tmp_path: Path) -> None:
    worst = WorstSample(3, "a.png", "cat", "dog", 1.5, None, "3.png", ("3-fp32.png",))
    evidence = SampleEvidence("top-1, pp", (worst,))
    write_samples(tmp_path, "openvino", evidence)
    assert read_samples(tmp_path, "openvino") == evidence
    assert read_samples(tmp_path, "onnxruntime") is None
    (tmp_path / f"openvino{SAMPLES}").write_text('{"worst": [{"index": "x"}]}')
    with pytest.raises(ArtefactError, match="worst"):
        read_samples(tmp_path, "openvino")


def test_names_of_files_stand_without_quotes(tmp_path: Path) -> None:
    names = ("a b/it's.png", 'say "x".png', "two\nlines.png", "plain.png")
    files = FileDataset("set", tmp_path, names, np.zeros(4, np.int64))
    assert [sample_name(files, index) for index in range(4)] == list(names)
    arrays = ArrayDataset("set", np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int64))
    assert sample_name(arrays, 1) == "set[1]"
