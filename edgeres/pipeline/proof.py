"""What a run measured, put together into its report."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from edgeres.benchmarking.latency import Latency
from edgeres.benchmarking.speedup import speedup
from edgeres.benchmarking.stability import doubts_of_both
from edgeres.data.types import Dataset
from edgeres.evaluation.gates import (
    coverage_check,
    decide,
    deployment_checks,
    fusion_check,
    not_executed,
    size_check,
)
from edgeres.evaluation.predictions import Predictions
from edgeres.pipeline.engines import BuiltTarget
from edgeres.pipeline.judged import (
    RunAnswers,
    agreement,
    baseline_figures,
    judged,
    repeats_of,
    rows_of,
    task_part,
)
from edgeres.pipeline.layers import LayerFiles
from edgeres.pipeline.measure import MeasuredTimes
from edgeres.pipeline.networks import Networks
from edgeres.pipeline.run import Run
from edgeres.pipeline.samples import write_worst_samples
from edgeres.recipe.gates import GatesBlock
from edgeres.report.evidence import (
    COMPARED,
    LATENCY,
    RECIPE,
    SENSITIVITY,
    latency_record,
    pair_answers,
    write_target,
)
from edgeres.report.explain import findings
from edgeres.report.schema import (
    BaselinePart,
    Finding,
    ModelPart,
    Percentiles,
    PruningLatency,
    PruningPart,
    Report,
    TargetPart,
)
from edgeres.report.winner import choose_winner
from edgeres.system.files import disk_errors, write_atomic
from edgeres.tasks.answers import Answers
from edgeres.tasks.task import Task


@dataclass(frozen=True)
class Proof:
    """All measurements of one run.

    Attributes:
        networks: Dense and pruned FP32 networks.
        validation: The samples that all were asked about.
        dense: Answers of the FP32 network that the user brought.
        final: Answers of the FP32 network that was quantized; ``dense`` itself without pruning.
        built: Every target's INT8 engine.
        answers: INT8 answers by target, of those that ran here.
        times: Latencies of the FP32 and the INT8 engine by target, likewise.
        layers: What was measured of the layers by target; empty where it was not asked for.
    """

    networks: Networks
    validation: Dataset
    dense: RunAnswers
    final: RunAnswers
    built: Sequence[BuiltTarget]
    answers: Mapping[str, RunAnswers]
    times: Mapping[str, MeasuredTimes]
    layers: Mapping[str, LayerFiles]


def make_report(run: Run, proof: Proof, *, model_sha256: str) -> Report:
    """Compares, judges and explains what was measured.

    Args:
        run: Recipe, environment and stages.
        proof: The measurements.
        model_sha256: Hash of the model file as the user brought it.
    """
    gates, networks, dense = run.recipe.gates, proof.networks, proof.dense
    targets = {
        item.target.name: _target(proof, item, gates, run.recipe.quantize.precision, run.task)
        for item in proof.built
    }
    report = Report(
        environment=run.environment,
        model=ModelPart(
            name=networks.facts.name,
            parameters=networks.dense.summary.parameters,
            macs=networks.dense.summary.macs,
            sha256=model_sha256,
        ),
        baseline=BaselinePart(
            samples=dense.samples,
            latency_ms={n: _percentiles(t.fp32.latency) for n, t in proof.times.items()},
            data=proof.validation.name,
            data_fingerprint=dense.data_fingerprint,
            **baseline_figures(dense, gates, targets.values()),
        ),
        task=task_part(run.task, dense),
        pruning=_pruning(proof, gates, run.task),
        stages=tuple(run.stages),
        targets=targets,
        agreement_matrix=agreement({"fp32": proof.final, **proof.answers}),
        confidence=gates.confidence,
    )
    warned = tuple(Finding("warning", "data", text) for text in run.warnings)
    repeats = repeats_of(dense, gates.confidence)
    if repeats:
        text = f"{proof.validation.name}: {repeats}, which all bounds take into account."
        warned += (Finding("warning", "repeated-images", text),)
    return replace(report, findings=(*warned, *findings(report)), winner=choose_winner(report))


def write_evidence(run: Run, proof: Proof) -> Path:
    """Writes what the report page needs beside the report; see :mod:`edgeres.report.evidence`.

    Args:
        run: Recipe and store, beside whose results the folder is made.
        proof: The measurements.

    Returns:
        A new folder, to be moved to where it belongs.

    Raises:
        StorageError: It cannot be written.
    """
    with disk_errors(run.store.root):
        folder = Path(tempfile.mkdtemp(prefix=".evidence-", dir=run.store.root))
    for item in proof.built:
        name = item.target.name
        answers = proof.answers.get(name)
        write_target(
            folder,
            name,
            layers=item.layers,
            macs_by_node=proof.networks.final.summary.macs_by_node,
            answers=pair_answers(proof.dense, answers)
            if isinstance(answers, Predictions) and isinstance(proof.dense, Predictions)
            else None,
            images=proof.validation,
            preprocess=proof.networks.preprocess,
        )
        if run.task is not None and isinstance(answers, Answers):
            write_worst_samples(
                folder,
                item,
                proof.networks.dense.onnx,
                run.task,
                (rows_of(proof.dense), answers),
                proof.validation,
                proof.networks.preprocess,
            )
    for name, files in proof.layers.items():
        for file, end in ((files.compared, COMPARED), (files.sensitivity, SENSITIVITY)):
            if file is not None:
                write_atomic(folder / f"{name}{end}", file.read_bytes())
    times = {
        name: latency_record(measured.fp32.latency, measured.engine.latency)
        for name, measured in proof.times.items()
    }
    recipe = run.recipe.model_dump(mode="json", exclude_unset=True)
    for key in ("source", "weights"):  # where the file lay is this machine's affair
        if isinstance(recipe["model"].get(key), str):
            recipe["model"][key] = Path(recipe["model"][key]).name
    for name, content in ((LATENCY, times), (RECIPE, recipe)):
        write_atomic(folder / name, (json.dumps(content, indent=1) + "\n").encode())
    return folder


def _pruning(proof: Proof, gates: GatesBlock, task: Task | None) -> PruningPart | None:
    dense, pruned = proof.networks.dense, proof.networks.pruned
    if pruned is None:
        return None
    _, lost = judged(task, proof.dense, proof.final, proof.final, gates)
    prediction = proof.networks.prediction
    latency = None
    if prediction is not None:
        times = proof.times.get(prediction.target)
        measured = times.engine.latency.p50_ms if times else None
        latency = PruningLatency(
            prediction.target,
            prediction.dense_ms,
            prediction.predicted_ms,
            measured,
            built_ms=prediction.built_ms,
            uniform_ms=prediction.uniform_ms,
            kept=prediction.kept,
        )
    return PruningPart(
        top1=lost.get("top1"),
        macs=pruned.summary.macs,
        parameters=pruned.summary.parameters,
        macs_ratio=pruned.summary.macs / dense.summary.macs,
        drop_pp=lost.get("drop_pp"),
        drop_upper_pp=lost.get("drop_upper_pp"),
        metrics=lost.get("metrics", {}),
        latency=latency,
    )


def _target(
    proof: Proof,
    item: BuiltTarget,
    gates: GatesBlock,
    precision: Literal["int8", "fp16", "bf16", "fp32"],
    task: Task | None,
) -> TargetPart:
    """One engine's part; an engine that did not run here has its coverage and its reason."""
    name = item.target.name
    coverage = item.inside
    covered = []
    if precision == "int8":
        covered.append(coverage_check(coverage, gates.min_int8_coverage))
    if gates.min_fused_adds is not None:
        covered.append(fusion_check(item.inside.fusions, gates.min_fused_adds))
    if gates.max_size_bytes is not None:
        covered.append(size_check(item.size_bytes, gates.max_size_bytes))
    part = TargetPart(
        engine=f"{name}/{item.engine.path.name}",
        size_bytes=item.size_bytes,
        built=True,
        executed=False,
        verdict="not_executed",
        precision=precision,
        runtime=", ".join(f"{key} {value}" for key, value in item.engine.versions.items()),
        device=item.target.device,
        int8_coverage=coverage.int8_coverage,
        float_layers=coverage.float_layers,
        fusions=item.inside.fusions,
        builder_warnings=item.remarks.warnings,
        notes=item.remarks.notes,
        commands=item.remarks.commands,
        saturating=item.target.saturates,
        saturation_safe=item.saturation_safe,
    )
    if name not in proof.answers:
        verdict = not_executed(item.target.not_executable or "")
        if any(check.outcome != "pass" for check in covered):
            verdict = decide(covered)
        return replace(part, verdict=verdict.outcome, reason=verdict.reason, checks=tuple(covered))
    checks, figures = judged(task, proof.dense, proof.final, proof.answers[name], gates)
    timed = _with_latency(part, proof.times[name])
    speed = deployment_checks(
        gates.replace(max_size_bytes=None),
        latency=proof.times[name].engine.latency,
        speedup=timed.speedup,
        speedup_interval=timed.speedup_interval,
        doubts=timed.doubts,
        yardstick=timed.yardstick,
    )
    verdict = decide([*checks, *covered, *speed])
    return replace(
        timed,
        executed=True,
        verdict=verdict.outcome,
        reason=verdict.reason,
        checks=verdict.checks,
        **figures,
    )


def _with_latency(part: TargetPart, times: MeasuredTimes) -> TargetPart:
    fp32, int8 = times.fp32.latency, times.engine.latency
    arithmetic, fastest = times.yardstick
    yardstick = fastest.latency
    ratio = speedup(yardstick, int8)
    if times.unpruned is not None:
        gain = speedup(times.unpruned.latency, int8)
        part = replace(
            part,
            unpruned_latency_ms=_percentiles(times.unpruned.latency),
            pruning_speedup=gain.value,
            pruning_speedup_interval=(gain.low, gain.high),
        )
    return replace(
        part,
        latency_ms=_percentiles(int8),
        fp32_latency_ms=_percentiles(fp32),
        yardstick=arithmetic,
        yardstick_latency_ms=_percentiles(yardstick),
        speedup=ratio.value,
        speedup_interval=(ratio.low, ratio.high),
        throughput_per_s=int8.throughput_per_s,
        load_ms=times.engine.load_ms,
        overhead_ms=int8.overhead_ms,
        stable=int8.stable and yardstick.stable,
        doubts=doubts_of_both(int8.doubts, yardstick.doubts, arithmetic),
    )


def _percentiles(times: Latency) -> Percentiles:
    return Percentiles(times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms)
