"""The command that measures the latency of built engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import Screen, screen
from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.benchmarking.loadgen_summary import Scenario
    from edgeres.devices.fleet import FleetDevice


def benchmark(
    engines: Annotated[
        list[Path],
        typer.Argument(
            help="Engines, .onnx files or output folders of convert; the first is the yardstick."
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Builds .onnx files; of a folder only its engine. Repeat for several."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images in a run; 1 if left out.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="cpu, cuda:N, gpu[:N], npu, auto or ssh://[user@]host[:port]."),
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
    meter: Annotated[
        str | None,
        typer.Option(
            help="Command that prints watts (12.3 W) or joules so far (456 J), a line at a time; "
            "sensors that Linux shows are read without."
        ),
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
        _check_scenario(
            scenario,
            batch_size=batch_size,
            device=device,
            fleet=fleet,
            sustained=sustained,
            meter=meter,
            tune_runtime=tune_runtime,
            target_qps=target_qps,
            latency_bound_ms=latency_bound_ms,
        )
        remote = fleet is not None or (device or "").startswith("ssh://")
        if remote and (tune_runtime or sustained is not None or meter is not None):
            raise UsageError(
                "--tune-runtime, --sustained and --meter are for this machine only.",
                hint="Run that command on the device itself.",
            )
        from edgeres.evaluation.named import named_engines

        with named_engines(engines, targets=target or (), threads=threads) as named:
            names = {str(one.path): one.name for one in named}
            paths = [one.path for one in named]
            if remote:
                devices = _devices(fleet, device, threads, known_hosts, identity, remote_python)
                _on_devices(
                    out, devices, paths, names, batch_size or 1, seconds, alone=fleet is None
                )
            if scenario is not None:
                _with_loadgen(
                    out, paths, names, scenario, seconds, target_qps, latency_bound_ms, threads
                )
            from edgeres.benchmarking.latency import MeasureSettings
            from edgeres.benchmarking.meters import CommandMeter, find_meter
            from edgeres.benchmarking.tuned import benchmark_engines
            from edgeres.report.command_tables import benchmark_table

            with out.listener() as listener:
                measured = benchmark_engines(
                    paths,
                    tune=tune_runtime,
                    batch_size=batch_size or 1,
                    device=device,
                    threads=threads,
                    settings=MeasureSettings(seconds=seconds),
                    sustained_s=sustained,
                    meter=find_meter() if meter is None else CommandMeter(meter),
                    listener=listener,
                ).named(names)
        out.result(measured.to_dict(), benchmark_table(measured.benchmark, measured.tunings))
        raise typer.Exit(measured.benchmark.exit_code)


def _devices(
    fleet: Path | None,
    device: str | None,
    threads: int | None,
    known_hosts: Path | None,
    identity: Path | None,
    python: str,
) -> list[FleetDevice]:
    from edgeres.devices.address import parse_ssh
    from edgeres.devices.fleet import FleetDevice, load_fleet

    if fleet is not None:
        return load_fleet(fleet)
    host = parse_ssh(str(device), known_hosts=known_hosts, identity=identity, python=python)
    return [FleetDevice(host.name, host, threads)]


def _on_devices(
    out: Screen,
    devices: list[FleetDevice],
    engines: list[Path],
    names: dict[str, str],
    batch_size: int,
    seconds: float,
    *,
    alone: bool,
) -> NoReturn:
    from edgeres.devices.fleet import benchmark_fleet
    from edgeres.report.fleet_table import fleet_exit_code, fleet_table

    results = benchmark_fleet(
        devices, engines, batch_size=batch_size, seconds=seconds, say=out.note
    )
    if alone and results[0].error is not None:
        raise results[0].error
    results = [one.named(names) for one in results]
    out.result({"devices": {one.name: one.to_dict() for one in results}}, fleet_table(results))
    raise typer.Exit(fleet_exit_code(results))


def _with_loadgen(
    out: Screen,
    engines: list[Path],
    names: dict[str, str],
    scenario: str,
    seconds: float,
    target_qps: float | None,
    latency_bound_ms: float | None,
    threads: int | None,
) -> NoReturn:
    from edgeres.benchmarking.loadgen import LATENCY_BOUND_MS, LoadGenSettings, run_engines
    from edgeres.report.command_tables import loadgen_table

    settings = LoadGenSettings(
        scenario=cast("Scenario", scenario),
        seconds=seconds,
        target_qps=target_qps,
        latency_bound_ms=LATENCY_BOUND_MS if latency_bound_ms is None else latency_bound_ms,
        threads=threads,
    )
    runs = {names[path]: run for path, run in run_engines(engines, settings).items()}
    out.result(
        {"engines": {name: run.to_dict() for name, run in runs.items()}}, loadgen_table(runs)
    )
    raise typer.Exit(0 if all(run.valid for run in runs.values()) else 1)


def _check_scenario(scenario: str | None, **options: object) -> None:
    """Refuses options that a LoadGen run, or the lack of one, would ignore without a word."""
    own = ("target_qps", "latency_bound_ms")  # of LoadGen; all others are not
    used = [name for name, value in options.items() if value is not None and value is not False]
    names = [f"--{name.replace('_', '-')}" for name in used if (name in own) == (scenario is None)]
    if names and scenario is None:
        raise UsageError(
            f"{', '.join(names)}: only for MLPerf LoadGen.", hint="Give --scenario server too."
        )
    if names:
        raise UsageError(
            f"{', '.join(names)}: not for --scenario {scenario}.",
            hint="Leave it out: LoadGen runs on the engine's own device and chooses the batches.",
        )
