"""Commands that look at built engines, and at this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen

if TYPE_CHECKING:
    from edgeres.benchmarking.loadgen_summary import Scenario
    from edgeres.data.preprocess import Preprocess

Engine = Annotated[Path, typer.Argument(help="Engine file, with its sidecar beside it.")]


def validate(
    engine: Engine,
    data: Annotated[str, typer.Option(help="Labelled images, as for convert.")] = "fashion-mnist",
    baseline: Annotated[
        Path | None,
        typer.Option(help="Predictions (.npz), engine or FP32 ONNX; the run's own if left out."),
    ] = None,
    max_drop: Annotated[float, typer.Option(help="Largest drop of top-1, in points.")] = 0.5,
    confidence: Annotated[float, typer.Option(help="Confidence of the bounds.")] = 0.95,
    min_int8_coverage: Annotated[
        float | None, typer.Option(help="Smallest share of MACs in INT8.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the engine's answers (.npz).")] = None,
    threads: o.Threads = None,
    scale: o.Scale = None,
    mean: o.Mean = None,
    std: o.Std = None,
    resize: o.Resize = None,
    crop: o.Crop = None,
    channel_order: o.ChannelOrder = None,
    layout: o.Layout = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure a built engine's accuracy against a baseline; exit 1 unless it passes."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.data.source import open_dataset
        from edgeres.evaluation.gates import Limits
        from edgeres.evaluation.validate import validate as run
        from edgeres.report.tables import validation_table

        changes = o.preprocess_changes(
            scale=scale,
            mean=mean,
            std=std,
            resize=resize,
            crop=crop,
            channel_order=channel_order,
            layout=layout,
        )
        with out.listener() as listener:
            found = run(
                engine,
                open_dataset(data, split="validation"),
                _preprocess(engine, changes),
                baseline=baseline,
                limits=Limits(max_drop, confidence, min_int8_coverage),
                threads=threads,
                trial=True,
                progress=listener.bar("validate"),
            )
        if save is not None:
            found.predictions.save(save)
        out.result(found.to_dict(), validation_table(found))
        raise typer.Exit(found.verdict.exit_code)


def benchmark(
    engines: Annotated[list[Path], typer.Argument(help="Engines; the first is the yardstick.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a run.")] = 1,
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N.")] = None,
    threads: o.Threads = None,
    seconds: Annotated[float, typer.Option(help="Time measured for each engine.")] = 4.0,
    scenario: Annotated[
        str | None,
        typer.Option(help="MLPerf LoadGen: single_stream, multi_stream, server or offline."),
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure latency of built engines, which take turns; exit 1 where the times are unstable."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.benchmarking.benchmark import benchmark as run
        from edgeres.benchmarking.latency import MeasureSettings
        from edgeres.report.tables import benchmark_table, loadgen_table

        if scenario is not None:
            from edgeres.benchmarking.loadgen import LoadGenSettings, run_loadgen

            wanted = LoadGenSettings(
                scenario=cast("Scenario", scenario), seconds=seconds, threads=threads
            )
            runs = {str(engine): run_loadgen(engine, wanted) for engine in engines}
            content = {name: found.to_dict() for name, found in runs.items()}
            out.result({"engines": content}, loadgen_table(runs))
            raise typer.Exit(0 if all(found.valid for found in runs.values()) else 1)
        with out.listener() as listener:
            found = run(
                engines,
                batch_size=batch_size,
                device=device,
                threads=threads,
                settings=MeasureSettings(seconds=seconds),
                trial=True,
                progress=listener.bar("benchmark"),
            )
        out.result(found.to_dict(), benchmark_table(found))
        raise typer.Exit(found.exit_code)


def inspect(
    engine: Engine,
    source: Annotated[
        Path | None, typer.Option(help="ONNX file it was built from, if not beside it.")
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """List an engine's layers with the precision each really runs in, and its INT8 coverage."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.evaluation.inspect import inspect as run
        from edgeres.report.tables import inspection_table

        found = run(engine, source=source, trial=True)
        out.result(found.to_dict(), inspection_table(found))


def doctor(as_json: o.Json = False, debug: o.Debug = False) -> None:
    """Say what this machine is, which backends are here, and how to get those that are not."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.health import doctor as run
        from edgeres.report.tables import health_table

        with out.listener() as listener:
            found = run(progress=listener.bar("doctor"))
        out.result(found.to_dict(), health_table(found))


def _preprocess(engine: Path, changes: dict[str, object]) -> Preprocess:
    """What the options say, on top of what lies beside the run's baseline."""
    from edgeres.data.preprocess import Preprocess
    from edgeres.errors import UsageError
    from edgeres.pipeline import BASELINE, PREPROCESS

    kept = engine.resolve().parent.parent / BASELINE / PREPROCESS
    values = json.loads(kept.read_text()) if kept.is_file() else {}
    values |= {key.removeprefix("preprocess."): value for key, value in changes.items()}
    if not values:
        raise UsageError(
            f"{engine}: nothing says how its images are preprocessed.",
            hint="Give --scale, --mean, --std, --resize and --crop, or validate it in the "
            "output folder of `edgeres convert`.",
        )
    return Preprocess.from_dict(values)
