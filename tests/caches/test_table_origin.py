"""A calibration table is used for what it was made from, and for nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from edgeres.cli import app

from .conftest import write_images

MEAN = ("--mean", "0.286", "--std", "0.353")


@pytest.fixture(autouse=True)
def no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial of a model from elsewhere in a child process has its own tests."""
    monkeypatch.setattr("edgeres.quantization.isolate.try_model", lambda path: None)


@pytest.fixture
def place(kills: ModuleType, tmp_path: Path) -> Path:
    kills.write_network(tmp_path / "net.onnx")
    write_images(tmp_path / "a.npz", seed=0)
    write_images(tmp_path / "b.npz", seed=1)
    return tmp_path


@pytest.fixture(scope="module")
def first_run(kills: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place after one run on ``a`` with ``MEAN``; only to copy."""
    folder = tmp_path_factory.mktemp("first")
    kills.write_network(folder / "net.onnx")
    write_images(folder / "a.npz", seed=0)
    write_images(folder / "b.npz", seed=1)
    write_images(folder / "few.npz", count=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeres.quantization.isolate.try_model", lambda path: None)
        assert quantize(folder, *MEAN).exit_code == 0
    return folder


@pytest.fixture
def kept(first_run: Path, tmp_path: Path) -> Path:
    """A copy of it, for a second run."""
    return Path(shutil.copytree(first_run, tmp_path / "kept"))


def quantize(place: Path, *more: str, data: str = "a", model: str = "net.onnx") -> Result:
    return CliRunner().invoke(
        app,
        [
            "quantize", str(place / model), "--output", str(place / "q.onnx"),
            "--target", "onnxruntime", "--data", f"npz:{place / data}.npz", *more,
        ],
    )  # fmt: skip


def table_of(place: Path) -> str:
    return hashlib.sha256((place / "q.calibration.json").read_bytes()).hexdigest()


def test_a_kept_table_is_used_while_nothing_changes(kept, monkeypatch):
    before, model = table_of(kept), (kept / "q.onnx").read_bytes()
    monkeypatch.setattr("edgeres.stages.int8.calibrate", None)
    again = quantize(kept, *MEAN)
    assert again.exit_code == 0, again.output
    assert "made anew" not in again.stderr
    assert table_of(kept) == before
    assert (kept / "q.onnx").read_bytes() == model


@pytest.mark.parametrize(
    ("options", "data", "why"),
    [
        (("--mean", "0.5", "--std", "0.353"), "a", "it was made with mean [0.286], now it is"),
        (("--mean", "0.286", "--std", "0.5"), "a", "it was made with std [0.353]"),
        ((*MEAN, "--scale", "0.004"), "a", "it was made with scale"),
        (MEAN, "b", "it was made with other images"),
        (MEAN, "few", "it is of 40 images, now there are 20"),
    ],
)
def test_a_kept_table_of_something_else_is_made_anew_and_said(kept, options, data, why):
    before, model = table_of(kept), (kept / "q.onnx").read_bytes()
    changed = quantize(kept, *options, data=data)
    assert changed.exit_code == 0, changed.output
    assert f"q.calibration.json is not used but made anew: {why}" in changed.stderr
    assert table_of(kept) != before
    assert (kept / "q.onnx").read_bytes() != model
    # What comes out is what a first run with these options gives.
    found = (kept / "q.onnx").read_bytes()
    (kept / "q.calibration.json").unlink()
    assert quantize(kept, *options, data=data).exit_code == 0
    assert (kept / "q.onnx").read_bytes() == found


def test_images_replaced_in_place_and_damage_are_noticed(kept):
    (kept / "a.npz").write_bytes((kept / "b.npz").read_bytes())
    assert "other images" in quantize(kept, *MEAN).stderr
    (kept / "q.calibration.json").write_text("{")
    again = quantize(kept, *MEAN)
    assert again.exit_code == 0
    assert "made anew: " in again.stderr
    assert "other version" not in quantize(kept, *MEAN).stderr


def test_another_model_is_noticed(kept):
    raw = (kept / "net.onnx").read_bytes().replace(b"small", b"other", 1)
    (kept / "net.onnx").write_bytes(raw)
    assert "it is of model" in quantize(kept, *MEAN).stderr


def test_another_version_of_the_code_calibrates_anew(kept, monkeypatch):
    monkeypatch.setattr("edgeres.system.stage_code.code_sha256", lambda: "0" * 64)
    assert "another version of edgeres" in quantize(kept, *MEAN).stderr


@pytest.mark.parametrize(
    ("options", "data", "model", "why"),
    [
        (("--mean", "0.5"), "a", "net.onnx", "it was made with mean"),
        ((), "b", "net.onnx", "it was made with other images"),
        ((), "few", "net.onnx", "it was made with other images"),
        ((), "a", "other.onnx", "it is of model"),
    ],
)
def test_a_table_given_by_name_that_does_not_match_is_refused(place, options, data, model, why):
    write_images(place / "few.npz", count=20)
    raw = (place / "net.onnx").read_bytes().replace(b"small", b"other", 1)
    (place / "other.onnx").write_bytes(raw)
    table = ("--table", str(place / "t.json"))
    assert quantize(place, *MEAN, *table).exit_code == 0
    before = {file: file.read_bytes() for file in place.iterdir()}
    result = quantize(place, *table, *options, data=data, model=model)
    assert result.exit_code == 3, result.output
    assert f"t.json: {why}" in result.stderr
    assert {file: file.read_bytes() for file in place.iterdir()} == before


def test_a_table_given_by_name_says_its_preprocessing_and_serves_a_larger_set(place):
    """A run calibrates with the first images of a set; the whole set goes with its table."""
    from edgeres.data.preprocess import Preprocess
    from edgeres.stages.int8 import calibrate

    calibrate(
        place / "net.onnx",
        place / "t.json",
        data=f"npz:{place / 'a.npz'}",
        samples=16,
        preprocess=Preprocess(mean=(0.286,), std=(0.353,), channels=1),
    )
    result = quantize(place, "--table", str(place / "t.json"))
    assert result.exit_code == 0, result.output
    assert json.loads((place / "t.json").read_text())["made_from"]["samples"] == 16


def test_sensitivity_refuses_a_table_of_another_preprocessing(kept):
    place = kept
    result = CliRunner().invoke(
        app,
        [
            "sensitivity", str(place / "net.onnx"), "--target", "onnxruntime", "--samples", "4",
            "--data", f"npz:{place / 'a.npz'}", "--mean", "0.5",
            "--table", str(place / "q.calibration.json"),
        ],
    )  # fmt: skip
    assert result.exit_code == 3
    assert "it was made with mean [0.286], now it is [0.5]" in result.stderr
