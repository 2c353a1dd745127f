"""``edgeres validate``: who answers, what is judged, and what is told."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation.gates import Check, decide

from .conftest import invoke

VERDICT = decide([Check("accuracy", "fail", "it lost 3 points.")])
RUN = "edgeres.evaluation.validate.validate"
IMAGES = ArrayDataset("images", np.zeros((2, 2, 2), np.uint8), np.arange(2), ("cat", "dog"))


@pytest.fixture
def judged(note, monkeypatch):
    monkeypatch.setattr("edgeres.data.source.open_dataset", lambda spec, **_: IMAGES)
    monkeypatch.setattr("edgeres.data.kinds.preprocess_for", lambda _, given: (given, ""))
    monkeypatch.setattr("edgeres.data.files.skipped_note", lambda images: "")
    monkeypatch.setattr("edgeres.report.command_tables.validation_table", lambda _: "a table")
    note("edgeres.evaluation.run_preprocess.run_preprocess", Preprocess())
    verdict = VERDICT
    found = SimpleNamespace(
        verdict=verdict,
        explanation="",
        engine=SimpleNamespace(backend="onnxruntime"),
        to_dict=lambda: {"verdict": verdict.outcome},
    )
    return note(RUN, found)


def test_limits_reach_the_library_and_the_verdict_is_the_exit_code(judged):
    result = invoke(
        "validate", "a.onnx", "--max-drop", 1, "--min-int8-coverage", 0.9, "--max-p99-ms", 5,
        "--min-speedup", 1.5, "--max-size-bytes", 100, "--json",
    )  # fmt: skip
    assert result.exit_code == VERDICT.exit_code, result.output
    assert json.loads(result.stdout)["verdict"] == VERDICT.outcome
    limits = judged.options["limits"]
    assert (limits.max_drop, limits.min_int8_coverage, limits.max_p99_ms) == (1.0, 0.9, 5.0)
    assert (limits.min_speedup, limits.max_size_bytes) == (1.5, 100)
    assert judged.options["answered"] is None
    assert judged.options["isolate"] is True
    assert judged.options["check_source"] is True


def test_answers_of_a_host_are_judged_and_the_engine_is_not_run_here(judged, note):
    asked = note("edgeres.devices.remote.predict_on", "answers")
    result = invoke("validate", "a.onnx", "--device", "ssh://me@pi", "--threads", 2)
    assert result.exit_code == VERDICT.exit_code, result.output
    assert asked.args[0].host == "pi"
    assert asked.options["threads"] == 2
    assert judged.options["answered"] == "answers"
    assert judged.options["check_source"] is False


def test_a_host_measures_no_latency(judged):
    result = invoke("validate", "a.onnx", "--device", "ssh://pi", "--max-p99-ms", 5)
    assert result.exit_code == 2
    assert judged.calls == 0


@pytest.mark.parametrize("options", [["--workers", 3], ["--scheduler", "tcp://s:1"]])
def test_workers_answer(judged, note, options):
    asked = note("edgeres.devices.workers.predict_sharded", "answers")
    result = invoke("validate", "a.onnx", "--data", "npz:a.npz", *options)
    assert result.exit_code == VERDICT.exit_code, result.output
    assert asked.args[1] == "npz:a.npz"
    assert asked.options["workers"] == (3 if options[0] == "--workers" else 2)
    assert asked.options["scheduler"] == (None if options[0] == "--workers" else "tcp://s:1")
    assert asked.options["threads"] == 1
    assert judged.options["answered"] == "answers"


def test_a_junit_file_is_written(judged, tmp_path):
    invoke("validate", "a.onnx", "--junit", tmp_path / "j.xml")
    assert "onnxruntime" in (tmp_path / "j.xml").read_text()
