"""Is this engine as good as its baseline? Measured on the engine, on this device."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends.base import Backend, BuildConfig, Engine
from edgeres.backends.fit import executable_backend
from edgeres.backends.isolate import build_isolated, try_engine
from edgeres.backends.sidecar import engine_size, read_engine, sidecar_path
from edgeres.data.class_order import in_order_of
from edgeres.errors import ArtefactError, ModelError
from edgeres.evaluation import run_folder
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.baseline import check_baseline, contradicting_labels
from edgeres.evaluation.compare import Comparison, compare
from edgeres.evaluation.conformance import Conformance, conformance_checks, figures_of
from edgeres.evaluation.coverage import Coverage
from edgeres.evaluation.explanation import Explanation
from edgeres.evaluation.explanation import explain as find_cause
from edgeres.evaluation.gates import (
    SAME_FOR_ALL,
    Verdict,
    accuracy_check,
    coverage_check,
    decide,
    deployment_checks,
    fusion_check,
)
from edgeres.evaluation.inspect import inspect, source_of
from edgeres.evaluation.judge import Judgement, judge
from edgeres.evaluation.predict import BATCH, predict
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.qdq_check import findings_json, findings_of
from edgeres.evaluation.rebuild_config import built_like
from edgeres.evaluation.run_task import load_run_answers, run_class_names, run_task
from edgeres.evaluation.task_baseline import check_answers
from edgeres.recipe.gates import Limits
from edgeres.system.files import StrPath
from edgeres.system.progress import ProgressCallback
from edgeres.system.temporary import temporary_folder
from edgeres.tasks.answers import Answers
from edgeres.tasks.check import Check
from edgeres.tasks.task import Task

if TYPE_CHECKING:
    from edgeres.data.bad_images import BadImages
    from edgeres.data.preprocess import PreprocessLike
    from edgeres.data.types import Dataset
    from edgeres.quantization.qdq_view import Finding


@dataclass(frozen=True)
class Validation:
    """An engine against its baseline, judged.

    Attributes:
        engine: The engine.
        size_bytes: Size of all its files.
        baseline: Answers of the baseline.
        predictions: Answers of the engine; saved, they can be the baseline of another one.
        comparison: The two, sample by sample.
        coverage: INT8 coverage, ``None`` where no limit asked for it.
        verdict: Outcome of all checks.
        cause: Why, where the verdict is ``fail`` and an explanation was asked for.
        left_out: Images that could not be decoded, in words; empty where all could.
        contradictions: Images that are in the set under more than one label, in words with an
            example; empty where there are none.
        findings: What the rules of the target say of the quantized file that the engine was built
            from, where it was looked for and found.
    """

    engine: Engine
    size_bytes: int
    baseline: Predictions | Answers
    predictions: Predictions | Answers
    comparison: Comparison | Judgement
    coverage: Coverage | None
    verdict: Verdict
    cause: Explanation | None = None
    left_out: str = ""
    contradictions: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def explanation(self) -> str:
        """What to look at first, in one sentence; empty where nothing was asked or found."""
        return self.cause.text if self.cause is not None else ""

    @property
    def figures(self) -> dict[str, float | None]:
        """What a conformance file can expect, by metric."""
        return figures_of(self.comparison, self.coverage, self.size_bytes)

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values, with the field names of ``report.json``."""
        covered = self.coverage.to_dict() if self.coverage is not None else {}
        return {
            "engine": str(self.engine.path),
            "backend": self.engine.backend,
            "device": self.engine.device,
            "size_bytes": self.size_bytes,
            "built": True,
            "executed": True,
            **self.comparison.to_dict(),
            **covered,
            **self.verdict.to_dict(),
            **({"explanation": self.explanation} if self.explanation else {}),
            "left_out": self.left_out,
            "contradicting_labels": self.contradictions,
            "findings": findings_json(self.findings),
            "baseline": {
                "name": self.baseline.name,
                **_baseline_figures(self.comparison),
                "samples": self.baseline.samples,
                "model_sha256": self.baseline.model_sha256,
                "data_fingerprint": self.baseline.data_fingerprint,
                "digest": self.baseline.digest,
            },
        }


def validate(
    path: StrPath,
    dataset: Dataset,
    preprocess: PreprocessLike,
    *,
    task: Task | None = None,
    baseline: StrPath | Predictions | Answers | None = None,
    limits: Limits | None = None,
    threads: int | None = None,
    source: StrPath | None = None,
    explain: bool = False,
    conformance: Conformance | None = None,
    fp32: StrPath | None = None,
    answered: Predictions | Answers | None = None,
    skipped: BadImages | None = None,
    isolate: bool = False,
    check_source: bool = False,
    progress: ProgressCallback | None = None,
) -> Validation:
    """Runs a built engine over a data set and judges it against a baseline.

    Args:
        path: The engine file, with its sidecar beside it.
        dataset: Samples, labelled where the task needs it.
        preprocess: How an image becomes numbers.
        task: What the outputs mean; left out, that of the ``edgeres convert`` that made the
            engine or the baseline where it is no code, else classification.
        baseline: Answers or a file of them, another engine, or an FP32 ONNX file, which is built
            and run by the engine's own backend; left out, the ``baseline/predictions.npz`` in the
            output folder of the ``edgeres convert`` that made the engine.
        limits: What is allowed; the drop of top-1 always counts, coverage and size where given.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        source: ONNX file that the engine was built from, where coverage is asked for and it does
            not lie beside the engine.
        explain: Where the verdict is ``fail``, find out whether the images are prepared wrongly,
            or else the layer to look at first, if the engine lies in the output folder of
            ``edgeres convert``.
        conformance: Figures that the engine must reach and not exceed.
        fp32: FP32 engine or ONNX file to measure a speed-up against; the baseline where it is one.
        answered: The engine's answers, where another machine gave them; then the engine is not run.
        skipped: Collects images that cannot be decoded; without it the first of them raises.
        isolate: Whether the engine and all that it is compared with first run once in a child
            process, where they may crash or hang; what is built is then built in one, too.
        check_source: Whether the quantized file that the engine was built from is held against the
            rules of this device; the verdict is that of the answers alone.
        progress: Called with images done and images in all, for each model that is run.

    Raises:
        ArtefactError: No whole engine or baseline is there.
        BackendMissingError: The engine cannot run on this machine.
        DataError: The baseline is of other data, or its accuracy cannot be right.
        ModelError: The engine and the baseline are not classifiers of the same classes, or one
            answers the same for all images, or otherwise in another batch.
        StageError: The engine crashed or hung in its trial.
        UsageError: Limits that make no sense, or the run's task is code and nobody names it here.
    """
    path = Path(path)
    baseline = Path(baseline) if isinstance(baseline, str | os.PathLike) else baseline
    source = None if source is None else Path(source)
    fp32 = None if fp32 is None else Path(fp32)
    from edgeres.evaluation.speed import measure_speed  # it needs this module, too

    limits, prepared = limits or Limits(), preprocess.complete()
    if task is None and not isinstance(baseline, Predictions | Answers):
        task = run_task(path, baseline)
    engine = read_engine(path)
    if task is None:
        dataset = in_order_of(dataset, run_class_names(path, baseline)).dataset
    if isolate and answered is None:
        executable_backend(engine)
        try_engine(path)
    for other in (baseline, fp32) if isolate else ():
        if isinstance(other, Path):
            _try_other(other)
    size = engine_size(engine)
    expected = conformance.of(engine.backend) if conformance is not None else {}

    ask = predict if task is None else partial(answer_set, task=task)

    def answers(of: Engine, by: Backend, name: str = "") -> Predictions | Answers:
        with by.load(of, BuildConfig(device=of.device, threads=threads)) as runner:
            return ask(
                runner,
                dataset,
                prepared,
                batch_size=BATCH,
                name=name or str(of.path),
                model_sha256=of.source_sha256,
                skipped=skipped,
                progress=progress,
            )

    base = baseline or _default_baseline(path)
    reference = _baseline(engine, base, threads, answers, isolate=isolate)
    candidate = answered or answers(engine, executable_backend(engine))
    comparison, checks = _compared(task, reference, candidate, limits)

    def cause_of_it() -> Explanation:
        return find_cause(
            path,
            reference,
            dataset,
            prepared,
            baseline_file=baseline if isinstance(baseline, Path) else None,
            source=source,
            threads=threads,
            isolate=isolate,
        )

    if comparison.constant:
        raise ModelError(
            f"{path}: {SAME_FOR_ALL}: there is nothing to judge.",
            hint=(cause_of_it().text if explain else "") or "Build it again from its ONNX file.",
        )
    coverage = None
    needs_coverage = limits.min_int8_coverage is not None or limits.min_fused_adds is not None
    if needs_coverage or "int8_coverage" in expected:
        inside = inspect(path, source=source)
        coverage = inside.coverage
        if limits.min_int8_coverage is not None:
            checks.append(coverage_check(coverage, limits.min_int8_coverage))
        if limits.min_fused_adds is not None:
            checks.append(fusion_check(inside.fusions, limits.min_fused_adds))
    speed = measure_speed(engine, limits, fp32 or _runnable(baseline), threads, isolate=isolate)
    checks += deployment_checks(limits, size_bytes=size, **vars(speed))
    checks += conformance_checks(expected, figures_of(comparison, coverage, size))
    verdict = decide(checks)
    cause = cause_of_it() if explain and verdict.outcome == "fail" else None
    return Validation(
        engine,
        size,
        reference,
        candidate,
        comparison,
        coverage,
        verdict,
        cause,
        skipped.summary() if skipped is not None else "",
        contradicting_labels(reference, dataset) if isinstance(reference, Predictions) else "",
        _source_findings(engine, source) if check_source else (),
    )


def _compared(
    task: Task | None,
    reference: Predictions | Answers,
    candidate: Predictions | Answers,
    limits: Limits,
) -> tuple[Comparison | Judgement, list[Check]]:
    """The two, sample by sample, and the checks of the gates on it."""
    if isinstance(reference, Predictions) and isinstance(candidate, Predictions):
        check_baseline(reference)
        comparison = compare(reference, candidate, confidence=limits.confidence)
        return comparison, [accuracy_check(comparison, limits.max_top1_drop_pp)]
    if task is None or isinstance(reference, Predictions) or isinstance(candidate, Predictions):
        raise ArtefactError(
            f"{reference.name or 'the baseline'}: was answered for another task than the engine.",
            hint="Say the task of both with --task, or give the FP32 model as --baseline.",
        )
    check_answers(task, reference, limits)
    judged = judge(task, reference, candidate, limits)
    return judged, list(judged.checks)


def _baseline_figures(comparison: Comparison | Judgement) -> dict[str, object]:
    if isinstance(comparison, Comparison):
        return {"top1": comparison.baseline_top1}
    return {"metrics": {name: part.fp32 for name, part in comparison.metrics.items()}}


def _source_findings(engine: Engine, source: Path | None) -> tuple[Finding, ...]:
    try:
        onnx = source_of(engine, source)
    except ArtefactError:  # not kept: an engine can be judged by its answers without it
        return ()
    return findings_of(onnx, engine.backend, engine.device, engine.options)


def _try_other(path: Path) -> None:
    """Runs another engine or ONNX file in a child; what cannot be run is judged by its reader."""
    from edgeres.quantization.isolate import try_model

    if sidecar_path(path).is_file():
        executable_backend(read_engine(path))
        try_engine(path)
    elif path.suffix == ".onnx" and path.is_file():
        try_model(path)


def _runnable(baseline: Path | Predictions | Answers | None) -> Path | None:
    """A baseline that can be run, not only read."""
    return baseline if isinstance(baseline, Path) and baseline.suffix != ".npz" else None


def _default_baseline(path: Path) -> Path:
    """Where ``edgeres convert`` puts the baseline of an engine at ``OUTPUT/TARGET/ENGINE``."""
    predictions = run_folder.run_of(path) / run_folder.BASELINE / run_folder.PREDICTIONS
    if not predictions.is_file():
        raise ArtefactError(
            f"{path}: no baseline was given and there is none at {predictions}.",
            hint="Give --baseline: a file of predictions, another engine or the FP32 ONNX file.",
        )
    return predictions


def _baseline(
    engine: Engine,
    base: Path | Predictions | Answers,
    threads: int | None,
    answers: Callable[..., Predictions | Answers],
    *,
    isolate: bool,
) -> Predictions | Answers:
    """Turns whatever stands for the baseline into its answers."""
    if isinstance(base, Predictions | Answers):
        return base
    if not base.is_file():
        raise ArtefactError(f"{base}: no such baseline.", hint="Check the path.")
    if base.suffix == ".npz":
        return load_run_answers(base)
    if sidecar_path(base).is_file():
        other = read_engine(base)
        return answers(other, executable_backend(other))
    if base.suffix != ".onnx":
        raise ArtefactError(
            f"{base}: expected predictions (.npz), an engine or an ONNX file as baseline.",
            hint="`edgeres convert` writes one to baseline/predictions.npz in its output.",
        )
    backend = executable_backend(engine)
    with temporary_folder() as folder:
        out = folder / f"baseline{backend.engine_suffix}"
        config = built_like(engine, backend, base, threads=threads, reference=True)
        if isolate:
            built = build_isolated(base, out, backend.name, config)
        else:
            built = backend.build(base, out, config)
        return answers(built, backend, str(base))  # the engine's own file is gone soon
