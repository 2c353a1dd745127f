"""What a further run makes anew, and what it finds ready."""

import json
import shutil
from dataclasses import replace

import pytest

import edgeres
from edgeres.pipeline import convert as pipeline
from edgeres.report.history import read_history
from edgeres.system.progress import Silent

from .conftest import SAMPLES, hashes, installed, invoke

MEASURED_ANEW = ("report.json", "evidence/latency.json", "history.sqlite")


def test_a_second_run_does_nothing_anew_but_measure(own_copy, report):
    before = hashes(own_copy / "out")
    result = invoke("convert", own_copy / "recipe.yaml", "--output", own_copy / "out", "--json")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    anew = [stage["name"] for stage in again["stages"] if not stage["cached"]]
    assert anew == ["benchmark"]
    after = hashes(own_copy / "out")
    for name in MEASURED_ANEW:
        before.pop(name)
        after.pop(name)
    assert before == after
    kept = read_history(own_copy / "out" / "history.sqlite")
    assert len(kept) == 2 * len(report["targets"])
    assert [row.run for row in kept] == sorted(row.run for row in kept)
    for name, target in again["targets"].items():
        assert target["sqnr_db"] == report["targets"][name]["sqnr_db"]


def test_what_engines_answer_is_asked_again_under_other_instruction_sets(own_copy, monkeypatch):
    machine = pipeline.describe_environment()
    less = replace(machine, isa=(*machine.isa[:-1], "another"))
    monkeypatch.setattr(pipeline, "describe_environment", lambda: less)
    result = invoke("convert", own_copy / "recipe.yaml", "--output", own_copy / "out", "--json")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)["stages"]
    anew = {stage["name"].split(" (")[0] for stage in again if not stage["cached"]}
    assert anew == {"benchmark", "evaluate", "inspect"}
    assert not [s for s in again if s["cached"] and s["name"].startswith(("evaluate", "inspect"))]


def test_a_clean_run_elsewhere_gives_the_same_files(workplace, tmp_path):
    # TensorRT's builder does not always give equal plans, so a plan and its sidecar are left out.
    result = invoke(
        "convert", workplace / "recipe.yaml", "--output", tmp_path / "other", "--json", "--no-cache"
    )
    assert result.exit_code == 0, result.output
    first, second = hashes(workplace / "out"), hashes(tmp_path / "other")
    # Their layers are TensorRT's own, too.
    left_out = (*MEASURED_ANEW, "evidence/tensorrt.json")
    for name in [name for name in first if "plan" in name or name in left_out]:
        first.pop(name)
        assert second.pop(name)
    assert first == second


def test_python_call_gives_the_same_report(own_copy, report):
    recipe = edgeres.load_recipe(own_copy / "recipe.yaml")
    again = edgeres.convert(recipe, own_copy / "out")
    assert again.targets.keys() == report["targets"].keys()
    assert again.baseline.top1 == report["baseline"]["top1"]


def test_options_of_a_target_make_a_new_engine_and_nothing_else(own_copy):
    if "onnxruntime" not in installed():
        pytest.skip("onnxruntime is not installed")
    output = own_copy / "out"
    options = ["--option", "onnxruntime.spinning=false"]
    arguments = ("convert", own_copy / "recipe.yaml", "--output", output, "--json")
    result = invoke(*arguments, *options)
    assert result.exit_code == 0, result.output
    stages = {stage["name"]: stage["cached"] for stage in json.loads(result.stdout)["stages"]}
    assert not stages["build (onnxruntime)"]
    assert not stages["inspect (onnxruntime)"]
    others = [name for name in stages if "onnxruntime" not in name and "FP32" not in name]
    assert all(stages[name] for name in others if name != "benchmark")
    sidecar = json.loads((output / "onnxruntime" / "model.onnx.engine.json").read_text())
    assert sidecar["options"] == {"spinning": "false"}
    result = invoke(*arguments, "--option", "onnxruntime.spining=false")
    assert result.exit_code == 2
    assert "onnxruntime has no option 'spining'" in result.stdout


def test_the_default_recipe_finds_its_pruning_ready(tmp_path):
    small = {"data.validation_samples": SAMPLES, "benchmark.seconds": 0.2}
    recipe = edgeres.load_recipe(None, {**small, "targets": installed()[:1]})
    found = edgeres.convert(recipe, tmp_path / "out")
    cached = {stage.name: stage.cached for stage in found.stages}
    assert cached["prune and fine-tune"], "make it again: see docs/pruning.md"
    assert found.pruning is not None
    assert recipe.prune is not None
    assert 0.3 < found.pruning.macs_ratio < 0.6
    assert abs(found.pruning.drop_pp or 0.0) < 2


def test_a_builder_that_tells_its_steps_is_heard(own_copy):
    if "tensorrt" not in installed():
        pytest.skip("of the builders here, that of tensorrt tells its steps")
    for kept in (own_copy / "out" / ".stages").glob("build-*"):
        shutil.rmtree(kept)
    heard = []

    class Ear(Silent):
        def advanced(self, stage: str, done: int, total: int) -> None:
            if stage.startswith("build"):
                heard.append((stage, done, total))

    recipe = edgeres.load_recipe(own_copy / "recipe.yaml")
    edgeres.convert(recipe, own_copy / "out", listener=Ear())
    steps = [(done, total) for stage, done, total in heard if "tensorrt" in stage]
    assert len(steps) > 10
    assert all(0 < done <= total for done, total in steps)
