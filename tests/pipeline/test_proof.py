"""A report says what was measured, and nothing that was not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeres.backends import get_backend
from edgeres.evaluation.compare import compare
from edgeres.evaluation.coverage import int8_coverage
from edgeres.pipeline.convert import prove, stage_store
from edgeres.pipeline.inputs import open_inputs
from edgeres.pipeline.measure import MeasuredTimes, TimedEngines, latencies
from edgeres.pipeline.network import Network
from edgeres.pipeline.networks import LatencyPrediction
from edgeres.pipeline.proof import make_report, write_evidence
from edgeres.pipeline.unpruned import build_unpruned
from edgeres.report import cells
from edgeres.report.evidence import LATENCY, RECIPE, read_target
from edgeres.system.progress import Silent


def report_of(ran, proof=None, **changes):
    run = replace(ran.run, recipe=ran.run.recipe.override(changes)) if changes else ran.run
    return make_report(run, proof or ran.proof, model_sha256="ab" * 32)


def test_figures_are_those_of_the_measurements(ran):
    report = report_of(ran)
    part, proof = report.targets["onnxruntime"], ran.proof
    answers = proof.answers["onnxruntime"]
    judged = compare(proof.dense, answers, confidence=0.95)
    assert (part.top1, part.drop_pp, part.agreement) == (
        judged.top1, judged.drop_pp, judged.agreement,
    )  # fmt: skip
    assert report.baseline.top1 == proof.dense.correct.mean()
    assert part.size_bytes == proof.built[0].size_bytes
    assert part.int8_coverage == proof.built[0].inside.int8_coverage
    assert part.fusions == proof.built[0].inside.fusions
    times = proof.times["onnxruntime"]
    fp32, int8 = times.fp32, times.engine
    assert times.unpruned is part.pruning_speedup is None  # nothing was pruned
    assert part.latency_ms.p50 == int8.latency.p50_ms
    assert part.speedup == pytest.approx(fp32.latency.p50_ms / int8.latency.p50_ms, rel=0.5)
    assert report.model.sha256 == "ab" * 32
    assert report.pruning is None
    assert [stage.name for stage in report.stages] == [part.name for part in ran.run.stages]


@pytest.mark.parametrize(
    ("fp16_ms", "yardstick", "speedup"), [(1.0, "fp16", 0.5), (16.0, "fp32", 4.0)]
)
def test_int8_has_to_beat_the_fastest_float_engine(ran, fp16_ms, yardstick, speedup):
    timed = ran.proof.times["onnxruntime"]

    def taking(times, p50_ms):
        rounds = (p50_ms,) * 12
        latency = replace(times.latency, p50_ms=p50_ms, round_medians_ms=rounds, doubts=())
        return replace(times, latency=latency)

    measured = MeasuredTimes(
        taking(timed.fp32, 8.0),
        taking(timed.engine, 2.0),
        floats={"fp16": taking(timed.fp32, fp16_ms)},
    )
    times = {"onnxruntime": measured}
    proof = replace(ran.proof, times=times)
    report = report_of(ran, proof, **{"gates.min_speedup": 1.5})
    part = report.targets["onnxruntime"]
    assert (part.yardstick, part.speedup) == (yardstick, speedup)
    assert part.fp32_latency_ms.p50 == 8.0
    assert part.yardstick_latency_ms.p50 == min(8.0, fp16_ms)
    (check,) = [check for check in part.checks if check.name == "speedup"]
    assert check.outcome == ("fail" if yardstick == "fp16" else "pass")
    told = [finding.text for finding in report.findings if finding.code == "int8-slower"]
    assert any("slower than FP16" in text for text in told) == (yardstick == "fp16")
    assert ("of FP16" in cells.speedup(part)) == (yardstick == "fp16")


def test_a_run_times_the_other_float_engines_too(recipe, monkeypatch, tmp_path):
    builds = {"fp16": {"graph_optimization": "basic"}}  # any other engine of that network
    monkeypatch.setattr(type(get_backend("onnxruntime")), "float_builds", lambda _, __: builds)
    run, report, proof, _ = prove(open_inputs(recipe), stage_store(tmp_path / "out"), Silent())
    times = proof.times["onnxruntime"]
    assert list(times.floats) == ["fp16"]
    assert times.floats["fp16"].engine.options == builds["fp16"]
    assert report.targets["onnxruntime"].yardstick == times.yardstick[0]
    assert "build FP16 dense (onnxruntime)" in [stage.name for stage in run.stages]


def test_each_check_that_was_asked_for_is_judged(ran):
    names = {check.name for check in report_of(ran).targets["onnxruntime"].checks}
    assert "size" not in " ".join(names)
    wide = report_of(ran, **{"gates.max_size_bytes": 1})
    part = wide.targets["onnxruntime"]
    assert len(part.checks) == len(names) + 1
    assert part.verdict == "fail"
    assert wide.exit_code == 1


def test_an_engine_that_did_not_run_has_its_coverage_and_its_reason(ran):
    deaf = replace(ran.proof.built[0].target, not_executable="no such device.")
    built = replace(ran.proof.built[0], target=deaf)
    proof = replace(ran.proof, built=[built], answers={}, times={})
    part = report_of(ran, proof).targets["onnxruntime"]
    assert (part.executed, part.verdict) == (False, "not_executed")
    assert "no such device." in part.reason
    assert part.int8_coverage == 1.0
    assert part.top1 is part.latency_ms is part.speedup is None


def test_agreement_has_a_row_for_each_model_that_ran(ran):
    matrix = report_of(ran).agreement_matrix
    assert matrix.names == ("fp32", "onnxruntime")
    assert matrix.agreement[0][0] == matrix.agreement[1][1] == 1.0
    assert matrix.agreement[0][1] == matrix.agreement[1][0] <= 1.0
    assert matrix.sqnr_db[0][0] is None
    assert report_of(ran, replace(ran.proof, answers={})).agreement_matrix is None


def test_pruning_by_latency_is_told_with_what_was_predicted(ran):
    dense = ran.proof.networks.dense
    macs_by_node = {node: macs // 2 for node, macs in dense.summary.macs_by_node.items()}
    half = replace(dense.summary, macs_by_node=macs_by_node)
    pruned = Network("pruned", dense.onnx, dense.sha256, half, None)
    told = LatencyPrediction("onnxruntime", 4.0, 2.0, 2.1, 2.3, "latency", within_budget=True)
    networks = replace(ran.proof.networks, pruned=pruned, prediction=told)
    part = report_of(ran, replace(ran.proof, networks=networks)).pruning
    assert part.macs_ratio == pytest.approx(0.5, abs=1e-3)
    assert (part.latency.predicted_ms, part.latency.built_ms) == (2.0, 2.1)
    assert part.latency.measured_ms == ran.proof.times["onnxruntime"].engine.latency.p50_ms


def test_warnings_of_the_run_come_first_among_the_findings(ran):
    run = replace(ran.run, warnings=["something odd"])
    findings = make_report(run, ran.proof, model_sha256="").findings
    assert (findings[0].level, findings[0].text) == ("warning", "something odd")


def test_evidence_is_what_the_page_reads(ran):
    folder = write_evidence(ran.run, ran.proof)
    evidence = read_target(folder, "onnxruntime")
    assert evidence.answers.labels.tolist() == ran.proof.dense.labels.tolist()
    assert {node for layer in evidence.layers for node in layer.nodes} >= {"stem", "one", "two"}
    macs = ran.proof.networks.final.summary.macs_by_node
    by_node = {layer.nodes: layer.macs for layer in evidence.layers if layer.nodes}
    assert max(by_node.values()) >= macs["one"]
    times = json.loads((folder / LATENCY).read_text())["onnxruntime"]
    assert len(times["fp32"]["quantiles_ms"]) == 101
    kept = json.loads((folder / RECIPE).read_text())
    assert kept["model"]["source"] == "net.onnx"  # where it lay is this machine's affair


def test_what_pruning_gains_is_measured_against_the_dense_int8_engine(ran):
    """The dense network's engine is built without calibration, and timed as the others are."""
    dense = ran.proof.networks.dense
    networks = replace(ran.proof.networks, pruned=replace(dense, label="pruned"))
    (item,) = ran.proof.built
    engine = build_unpruned(ran.run, networks, item.target)
    assert engine.source_sha256 not in (dense.sha256, item.engine.source_sha256)
    layers = item.target.backend.layers(engine)
    assert int8_coverage(dense.summary.macs_by_node, layers).int8_coverage == 1.0
    assert build_unpruned(ran.run, ran.proof.networks, item.target) is None
    engines = TimedEngines(item.target, item.engine, item.engine, engine)
    measured = latencies(ran.run, [engines], ran.inputs.validation, networks.preprocess)
    proof = replace(ran.proof, times=measured, networks=networks)
    part = report_of(ran, proof).targets["onnxruntime"]
    before, after = measured["onnxruntime"].unpruned.latency, measured["onnxruntime"].engine.latency
    assert part.unpruned_latency_ms.p50 == before.p50_ms
    assert part.pruning_speedup == pytest.approx(before.p50_ms / after.p50_ms, rel=0.5)
    low, high = part.pruning_speedup_interval
    assert low <= part.pruning_speedup <= high
