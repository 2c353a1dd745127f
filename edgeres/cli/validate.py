"""The command that judges a built engine by its answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import CiTold, screen

if TYPE_CHECKING:
    from edgeres.data.types import Dataset
    from edgeres.tasks.task import Task


@o.takes_preprocess
def validate(
    engine: o.Engine,
    data: Annotated[str, typer.Option(help="Labelled images, as for convert.")] = "fashion-mnist",
    baseline: Annotated[
        Path | None,
        typer.Option(help="Predictions (.npz), engine or FP32 ONNX; the run's own if left out."),
    ] = None,
    max_drop: o.MaxDrop = None,
    confidence: Annotated[float, typer.Option(help="Confidence of the bounds.")] = 0.95,
    task: o.Task = None,
    metric: o.MetricName = None,
    min_int8_coverage: Annotated[
        float | None, typer.Option(help="Smallest share of MACs in INT8.")
    ] = None,
    max_p99_ms: Annotated[float | None, typer.Option(help="Largest p99 latency.")] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Smallest p50 of the fastest float engine over this one's.")
    ] = None,
    max_size_bytes: Annotated[int | None, typer.Option(help="Largest size.")] = None,
    fp32: Annotated[
        Path | None, typer.Option(help="FP32 engine or ONNX file for the speed-up.")
    ] = None,
    conformance: Annotated[
        Path | None, typer.Option(help="YAML with figures to reach and not to exceed.")
    ] = None,
    record_conformance: Annotated[
        Path | None, typer.Option(help="Write the measured figures into such a file.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="ssh://[user@]host[:port] runs the engine there.")
    ] = None,
    known_hosts: o.KnownHosts = None,
    identity: o.Identity = None,
    remote_python: o.RemotePython = "python3",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Answer by so many processes (dask).")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler whose workers answer.")
    ] = None,
    junit: o.Junit = None,
    annotations: o.Annotations = False,
    save: Annotated[Path | None, typer.Option(help="Keep the engine's answers (.npz).")] = None,
    explain: Annotated[
        bool, typer.Option(help="Name the layer to look at where the verdict is fail.")
    ] = True,
    threads: o.Threads = None,
    *,
    preprocess: o.PreprocessOptions,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure a built engine's accuracy against a baseline; exit 1 unless it passes."""
    told = CiTold("validate", junit, annotations)
    with screen(as_json=as_json, debug=debug, ci=told) as out:
        from edgeres.data.bad_images import BadImages
        from edgeres.data.kinds import only_features, preprocess_for
        from edgeres.devices.address import parse_ssh
        from edgeres.devices.elsewhere import Elsewhere
        from edgeres.evaluation import conformance as c
        from edgeres.evaluation.run_preprocess import run_preprocess
        from edgeres.evaluation.run_task import agreed_said, task_of
        from edgeres.evaluation.validate import validate as run
        from edgeres.recipe.gates import Limits
        from edgeres.report.command_tables import validation_table
        from edgeres.report.junit import tell_ci

        outputs = agreed_said(engine, baseline, task)
        judged_by = task_of(outputs)
        images, notes = _opened(data, judged_by, engine, baseline)
        fields = o.preprocess_fields(preprocess)
        chosen = run_preprocess([engine], fields, baseline, features=lambda: only_features(images))
        prepared, said = preprocess_for(images, chosen)
        for note in filter(None, (*notes, said)):
            out.note(f"warning: {note}")
        limits = Limits(
            metric=tuple(metric) if metric else None,
            max_drop=max_drop,
            confidence=confidence,
            min_int8_coverage=min_int8_coverage,
            max_p99_ms=max_p99_ms,
            min_speedup=min_speedup,
            max_size_bytes=max_size_bytes,
        )
        host = None
        if device is not None:
            host = parse_ssh(
                device, known_hosts=known_hosts, identity=identity, python=remote_python
            )
        elsewhere = Elsewhere(host, workers, scheduler, threads)
        elsewhere.check(limits)
        skipped = BadImages()
        with out.listener() as listener:
            bar = listener.bar("validate")
            answered = elsewhere.predict(
                engine,
                images,
                data,
                prepared,
                said=outputs,
                skipped=skipped,
                say=listener.note,
                progress=bar,
            )
            validation = run(
                engine,
                images,
                prepared,
                task=judged_by,
                baseline=baseline,
                limits=limits,
                threads=threads,
                explain=explain,
                conformance=c.load_conformance(conformance) if conformance else None,
                fp32=fp32,
                answered=answered,
                skipped=skipped,
                isolate=True,
                check_source=answered is None,
                progress=bar,
            )
        if save is not None:
            validation.predictions.save(save)
        if record_conformance is not None:
            c.record_conformance(
                record_conformance,
                model=validation.baseline.name,
                backend=validation.engine.backend,
                figures=validation.figures,
            )
        backend = validation.engine.backend
        tell_ci(
            {backend: validation.verdict},
            explained={backend: [validation.explanation] if validation.explanation else []},
            junit=junit,
            annotations=annotations,
            say=out.note,
        )
        out.result(validation.to_dict(), validation_table(validation))
        raise typer.Exit(validation.verdict.exit_code)


def _opened(
    data: str, task: Task | None, engine: Path, baseline: Path | None
) -> tuple[Dataset, list[str]]:
    """The samples, a classifier's in the order of its classes, and what is to be said of them."""
    from edgeres.data.class_order import in_order_of
    from edgeres.data.files import skipped_note
    from edgeres.data.source import open_dataset
    from edgeres.evaluation.run_task import run_class_names

    needed = task is None or task.needs_targets
    images = open_dataset(data, split="validation", labels_needed=needed)
    skipped = skipped_note(images)
    if task is not None:
        return images, [skipped]
    ordered = in_order_of(images, run_class_names(engine, baseline))
    return ordered.dataset, [ordered.note, skipped]
