"""What a run opens before any work, and what it says of its data."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

import edgeres
from edgeres.data.source import open_dataset
from edgeres.errors import DataError, EdgeResError, UsageError
from edgeres.pipeline import convert as module
from edgeres.pipeline.convert import prove, stage_store
from edgeres.pipeline.inputs import open_inputs
from edgeres.report.schema import read_report

from .conftest import Notes, write_images


@pytest.mark.parametrize(
    "changes",
    [
        {"quantize.bias_correction": "empirical"},
        {
            "quantize.mixed_precision.min_sqnr_db": 1.0,
            "quantize.mixed_precision.samples": 10,
            "quantize.mixed_precision.seconds": 0.05,
        },
    ],
)
def test_calibration_images_are_opened_once_in_a_run(recipe, tmp_path, monkeypatch, changes):
    opened: list[str] = []

    def counting(spec, **options):
        opened.append(options["split"])
        return open_dataset(spec, **options)

    # Whoever opened them anew would ask one of these.
    for name in ("pipeline.inputs", "stages.int8", "stages.sample_counts", "stages.network"):
        monkeypatch.setattr(f"edgeres.{name}.open_dataset", counting)
    prove(open_inputs(recipe.override(changes)), stage_store(tmp_path), Notes())
    assert sorted(opened) == ["calibration", "validation"]


def test_parts_of_the_calibration_images_do_not_overlap(ran):
    calibration = ran.inputs.calibration
    assert len(calibration.used) == 30
    assert len(calibration.held_out(10)) == 10
    used = {image.tobytes() for image in calibration.used.images}
    assert not used & {image.tobytes() for image in calibration.held_out(10).images}
    with pytest.raises(DataError, match="11 held-out images were asked for, 10 of 40 are left"):
        calibration.held_out(11)


def test_a_missing_network_is_told_before_anything_is_written(recipe, tmp_path):
    missing = recipe.override({"model.source": str(tmp_path / "none.onnx")})
    with pytest.raises(EdgeResError, match="no such model file"):
        edgeres.convert(missing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_images_are_asked_for_before_any_work(recipe):
    with pytest.raises(UsageError, match="names no training images"):
        open_inputs(recipe.override({"quantize.qat": {}}))


def test_images_in_both_sets_are_told(recipe, place, tmp_path):
    shutil.copyfile(place / "calibration.npz", tmp_path / "same.npz")
    same = recipe.override({"data.validation": f"npz:{tmp_path / 'same.npz'}"})
    notes = Notes()
    prove(open_inputs(same), stage_store(tmp_path / "out"), notes)
    assert any("30 of 30 calibration images are also in" in line for line in notes.lines)


def test_other_images_are_not(ran):
    assert not any("are also in" in line for line in ran.notes)


def test_few_images_are_told_once(recipe, tmp_path):
    few = write_images(tmp_path / "few.npz", seed=2, count=24)
    blocks = {**recipe.model_dump(exclude_unset=True)}
    del blocks["data"]["calibration_samples"]
    blocks["data"]["calibration"] = few
    inputs = open_inputs(type(recipe).model_validate(blocks))
    assert (
        inputs.note
        == "few images: 24 of 24 images calibrate (512 by default, --calibration-samples)."
    )
    assert len(inputs.calibration.used) == 24


def test_the_reference_is_the_first_target_that_runs_here(ran):
    (target,) = ran.inputs.targets
    elsewhere = replace(target, not_executable="no such device.")
    assert module._reference([elsewhere, target]) is target


def test_convert_hands_over_what_the_run_made(recipe, tmp_path):
    report = edgeres.convert(recipe, tmp_path)
    assert read_report(tmp_path / "report.json") == report
    names = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")}
    assert {
        "report.json", "history.sqlite", "baseline/model.onnx", "baseline/predictions.npz",
        "baseline/calibration_table.json", "baseline/preprocess.json",
        "onnxruntime/model.qdq.onnx", "onnxruntime/model.qdq.json", "evidence/latency.json",
    } <= names  # fmt: skip
    assert (tmp_path / report.targets["onnxruntime"].engine).is_file()


def test_no_target_that_runs_is_an_error(ran, monkeypatch):
    (target,) = ran.inputs.targets
    deaf = replace(target, not_executable="no such device.")
    monkeypatch.setattr(module, "open_target", lambda _: deaf)
    with pytest.raises(EdgeResError, match="no backend on this machine can run a network"):
        module._reference([deaf])
