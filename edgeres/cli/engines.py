"""Commands that look at built engines, and at this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import CiTold, screen

if TYPE_CHECKING:
    from edgeres.benchmarking.loadgen_summary import Scenario
    from edgeres.data.preprocess import Preprocess

Engine = Annotated[Path, typer.Argument(help="Engine file, with its sidecar beside it.")]


@o.takes_preprocess
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
    max_p99_ms: Annotated[float | None, typer.Option(help="Largest p99 latency.")] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Smallest FP32 p50 over this engine's.")
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
        from edgeres.data.files import skipped_note
        from edgeres.data.source import open_dataset
        from edgeres.evaluation import conformance as c
        from edgeres.evaluation.validate import validate as run
        from edgeres.recipe.checks import Limits
        from edgeres.report.command_tables import validation_table
        from edgeres.report.junit import tell_ci

        changes = o.preprocess_changes(preprocess)
        images = open_dataset(data, split="validation")
        if skipped := skipped_note(images):
            out.note(f"warning: {skipped}")
        prepared = engine_preprocess([engine], changes, baseline)
        bad = BadImages()
        answered = None
        if device is not None:
            from edgeres.devices.address import parse_ssh
            from edgeres.devices.remote import check_limits, predict_on

            check_limits(min_int8_coverage, max_p99_ms or min_speedup)
            host = parse_ssh(
                device, known_hosts=known_hosts, identity=identity, python=remote_python
            )
            answered = predict_on(
                host, engine, images, prepared, threads=threads, bad=bad, say=out.note
            )
        elif workers is not None or scheduler is not None:
            from edgeres.devices.workers import predict_sharded

            with out.listener() as listener:
                answered = predict_sharded(
                    engine,
                    data,
                    prepared,
                    scheduler=scheduler,
                    workers=workers or 2,
                    threads=threads or 1,
                    bad=bad,
                    progress=listener.bar("validate"),
                )
        with out.listener() as listener:
            found = run(
                engine,
                images,
                prepared,
                baseline=baseline,
                limits=Limits(
                    max_drop_pp=max_drop,
                    confidence=confidence,
                    min_int8_coverage=min_int8_coverage,
                    max_p99_ms=max_p99_ms,
                    min_speedup=min_speedup,
                    max_size_bytes=max_size_bytes,
                ),
                threads=threads,
                explain=explain,
                conformance=c.load_conformance(conformance) if conformance else None,
                fp32=fp32,
                answered=answered,
                bad=bad,
                trial=True,
                check_source=answered is None,
                progress=listener.bar("validate"),
            )
        if save is not None:
            found.predictions.save(save)
        if record_conformance is not None:
            c.record_conformance(
                record_conformance,
                model=found.baseline.name,
                backend=found.engine.backend,
                figures=found.figures,
            )
        verdicts = {found.engine.backend: found.verdict}
        tell_ci(
            verdicts,
            explained={found.engine.backend: [found.explanation] if found.explanation else []},
            junit=junit,
            annotations=annotations,
            say=out.note,
        )
        out.result(found.to_dict(), validation_table(found))
        raise typer.Exit(found.verdict.exit_code)


def benchmark(
    engines: Annotated[list[Path], typer.Argument(help="Engines; the first is the yardstick.")],
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a run; 1 if left out.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:N or ssh://[user@]host[:port].")
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option(help="YAML of devices that measure all at once.")
    ] = None,
    known_hosts: o.KnownHosts = None,
    identity: o.Identity = None,
    remote_python: o.RemotePython = "python3",
    threads: o.Threads = None,
    seconds: Annotated[float, typer.Option(help="Time measured for each engine.")] = 4.0,
    scenario: Annotated[
        str | None,
        typer.Option(help="MLPerf LoadGen: single_stream, multi_stream, server or offline."),
    ] = None,
    target_qps: Annotated[
        float | None,
        typer.Option(help="Samples a second that come (server) or are expected (offline)."),
    ] = None,
    latency_bound_ms: Annotated[
        float | None, typer.Option(help="Latency that 99 % of server's must keep; 15 if left out.")
    ] = None,
    sustained: Annotated[
        float | None, typer.Option(help="Then run each for so many seconds without a pause.")
    ] = None,
    tune_runtime: Annotated[
        bool,
        typer.Option(
            "--tune-runtime", help="First find and keep the fastest run-time options of each."
        ),
    ] = False,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure latency of built engines, which take turns; exit 1 where the times are unstable."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.benchmarking.benchmark import benchmark as run
        from edgeres.benchmarking.latency import MeasureSettings
        from edgeres.benchmarking.runtime_options import tune_runtime as tune
        from edgeres.errors import UsageError
        from edgeres.report.command_tables import benchmark_table, loadgen_table

        _check_scenario(
            scenario,
            batch_size=batch_size,
            device=device,
            fleet=fleet,
            sustained=sustained,
            tune_runtime=tune_runtime,
            target_qps=target_qps,
            latency_bound_ms=latency_bound_ms,
        )
        images = batch_size or 1
        if fleet is not None or (device or "").startswith("ssh://"):
            from edgeres.devices.address import parse_ssh
            from edgeres.devices.fleet import FleetDevice, benchmark_fleet, load_fleet
            from edgeres.report.fleet_table import fleet_exit_code, fleet_table

            if tune_runtime or sustained is not None:
                raise UsageError(
                    "--tune-runtime and --sustained run on this machine only.",
                    hint="Run that command on the device itself.",
                )
            if fleet is not None:
                devices = load_fleet(fleet)
            else:
                host = parse_ssh(
                    str(device), known_hosts=known_hosts, identity=identity, python=remote_python
                )
                devices = [FleetDevice(host.name, host, threads)]
            results = benchmark_fleet(
                devices, engines, batch_size=images, seconds=seconds, say=out.note
            )
            if fleet is None and results[0].error is not None:
                raise results[0].error
            content = {one.name: one.to_dict() for one in results}
            out.result({"devices": content}, fleet_table(results))
            raise typer.Exit(fleet_exit_code(results))
        if scenario is not None:
            from edgeres.benchmarking.loadgen import LoadGenSettings, run_loadgen

            wanted = LoadGenSettings(
                scenario=cast("Scenario", scenario),
                seconds=seconds,
                target_qps=target_qps,
                threads=threads,
            )
            if latency_bound_ms is not None:
                wanted = replace(wanted, latency_bound_ms=latency_bound_ms)
            runs = {str(engine): run_loadgen(engine, wanted) for engine in engines}
            content = {name: found.to_dict() for name, found in runs.items()}
            out.result({"engines": content}, loadgen_table(runs))
            raise typer.Exit(0 if all(found.valid for found in runs.values()) else 1)
        tunings = {}
        with out.listener() as listener:
            for engine in engines if tune_runtime else ():
                bar = listener.bar(f"tune {engine.name}")
                tunings[str(engine)] = tune(engine, batch_size=images, trial=True, progress=bar)
            found = run(
                engines,
                batch_size=images,
                device=device,
                threads=threads,
                settings=MeasureSettings(seconds=seconds),
                memory=True,
                sustained_s=sustained,
                trial=True,
                progress=listener.bar("benchmark"),
            )
        content = found.to_dict()
        for name, tuning in tunings.items():
            content["engines"][name]["tuning"] = tuning.to_dict()
        out.result(content, benchmark_table(found, tunings))
        raise typer.Exit(found.exit_code)


def _check_scenario(scenario: str | None, **options: object) -> None:
    """Refuses options that a LoadGen run, or the lack of one, would ignore without a word."""
    from edgeres.errors import UsageError

    own = ("target_qps", "latency_bound_ms")  # of LoadGen; all others are not
    given = [name for name, value in options.items() if value is not None and value is not False]
    names = [f"--{name.replace('_', '-')}" for name in given if (name in own) == (scenario is None)]
    if names and scenario is None:
        raise UsageError(
            f"{', '.join(names)}: only for MLPerf LoadGen.", hint="Give --scenario server too."
        )
    if names:
        raise UsageError(
            f"{', '.join(names)}: not for --scenario {scenario}.",
            hint="Leave it out: LoadGen runs on the engine's own device and chooses the batches.",
        )


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
        from edgeres.report.command_tables import inspection_table

        found = run(engine, source=source, trial=True)
        out.result(found.to_dict(), inspection_table(found))


def doctor(as_json: o.Json = False, debug: o.Debug = False) -> None:
    """Say what this machine is, which backends are here, and how to get those that are not."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.backends.doctor import doctor as run
        from edgeres.report.command_tables import health_table

        with out.listener() as listener:
            found = run(progress=listener.bar("doctor"))
        out.result(found.to_dict(), health_table(found))


def engine_preprocess(
    models: Sequence[Path], changes: dict[str, object], baseline: Path | None = None
) -> Preprocess:
    """What the options say, on top of what lies beside the baseline given or a model's run's."""
    from edgeres.backends.sidecar import require_engine_file
    from edgeres.data.preprocess import Preprocess
    from edgeres.errors import UsageError
    from edgeres.evaluation import run_folder
    from edgeres.system.publish import refuse_half_handover

    for folder in (model for model in models if model.is_dir()):
        require_engine_file(folder)
    runs = [run_folder.run_of(model) for model in models]
    for run in runs:
        refuse_half_handover(run)
    kept = [run / run_folder.BASELINE / run_folder.PREPROCESS for run in runs]
    if baseline is not None:
        kept.insert(0, baseline.with_name(run_folder.PREPROCESS))
    values: dict[str, Any] = next(
        (json.loads(path.read_text()) for path in kept if path.is_file()), {}
    )
    values |= {key.removeprefix("preprocess."): value for key, value in changes.items()}
    if not values:
        raise UsageError(
            f"{models[0]}: nothing says how its images are preprocessed.",
            hint="Give --scale, --mean, --std, --resize and --crop, or run the command in the "
            "output folder of `edgeres convert`.",
        )
    return Preprocess.from_dict({**_channels(models, str(values.get("layout", "nchw"))), **values})


def _channels(models: Sequence[Path], layout: str) -> dict[str, int]:
    """Channels of the images that the models take, where one of them is an ONNX file and tells."""
    from edgeres.quantization.trial import input_shape

    for model in models:
        if model.suffix == ".onnx" and model.is_file():
            shape = input_shape(model)
            found = shape[-1 if layout == "nhwc" else 1] if len(shape) == 4 else None
            return {"channels": found} if found else {}
    return {}
