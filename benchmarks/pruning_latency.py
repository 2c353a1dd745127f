"""Does pruning by latency give a faster engine than pruning evenly, and is the prediction right?

    python benchmarks/pruning_latency.py --out benchmarks/results/pruning_latency.json

ResNet-18 and ResNet-50 at 224x224, batch 1, random weights: latency only. For each network and
backend four engines take turns: dense FP32, dense INT8, uniform widths at half the multiply-adds in
INT8, and widths by latency with no fewer multiply-adds in INT8. These are built and measured beside
the uniform ones before they are kept, as pruning does it: four rounds at most. Random weights say
nothing of importance, so it is made up: log-normal, from the same distribution in every group.
``--work`` keeps what is done, so an interrupted run goes on; ``--phase``, ``--models``
and ``--backends`` do a part of it: ``layers`` fills the latency table and keeps each shape,
``widths`` searches, builds and measures, ``times`` is the interleaved comparison. ``--report`` only
puts together what is there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeres.backends.base import BuildConfig
from edgeres.backends.classifier import single_input
from edgeres.backends.target import Target, open_target
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import MeasureSettings, measure
from edgeres.benchmarking.speedup import speedup
from edgeres.errors import UsageError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.exporting.to_onnx import export_onnx
from edgeres.graph.summary import node_macs
from edgeres.layer_latency.bench import EngineBench
from edgeres.layer_latency.measure import measurement_context
from edgeres.layer_latency.predict import LatencyModel, latency_model
from edgeres.layer_latency.synthetic import Widths, assumed_ranges, write_narrowed
from edgeres.layer_latency.table import Multiples
from edgeres.models.build import build_model
from edgeres.models.cost import layer_macs
from edgeres.models.plan import plan_for
from edgeres.pruning.allocation import (
    Choices,
    allocate_by_latency,
    allocate_uniform,
    near,
    width_choices,
)
from edgeres.pruning.budget import MacsCost
from edgeres.pruning.confirm import Problem, Region, confirm
from edgeres.pruning.groups import ChannelGraph
from edgeres.pruning.latency_cost import LatencyCost
from edgeres.quantization.quantize import quantize
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.environment import describe_environment

SHAPE = (3, 224, 224)
MACS = 0.5
ROUND_TO = 8
MIN_SHARE = 0.1
BISECTIONS = 8
TIMES = MeasureSettings(seconds=5.0, rounds=20, min_runs=100, max_seconds=30.0)
UNIFORM = "uniform INT8"
BY_LATENCY = "by latency INT8"
ROWS = ("dense FP32", "dense INT8", UNIFORM, BY_LATENCY)


def exported(name: str, work: Path) -> Path:
    """The dense FP32 network with random weights."""
    path = work / f"{name}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        export_onnx(build_model(plan_for(name)).eval(), SHAPE, path)
    return path


def latency(name: str, target: Target, work: Path, threads: int | None) -> LatencyModel:
    """The latency model of the dense network; its table is measured where it is not there yet."""
    place = measurement_context(target, precision="int8", threads=threads)

    def show(done: int, total: int) -> None:
        print(f"{name} {target.name}: {done} of {total} layer shapes", flush=True)

    return latency_model(
        exported(name, work), target, threads=threads, path=work / place.file_name, progress=show
    )


def widths(name: str, model: LatencyModel, target: Target, work: Path) -> dict[str, Any]:
    """Widths of both allocations, their multiply-adds and their predicted milliseconds."""
    torch.manual_seed(0)
    module = build_model(plan_for(name)).eval()
    graph = ChannelGraph(module, SHAPE)
    macs = MacsCost(graph.groups, layer_macs(module, SHAPE))
    cost = LatencyCost(graph.groups, model)
    made_up = np.random.default_rng(0)
    choices = [
        width_choices(
            group,
            np.sort(made_up.lognormal(size=group.channels)),
            round_to=ROUND_TO,
            min_share=MIN_SHARE,
        )
        for group in graph.groups
    ]
    even = allocate_uniform(choices, macs, MACS * macs.total)

    def solve(now: LatencyModel, region: Region | None) -> Mapping[str, int]:
        started = time.monotonic()
        costs = LatencyCost(graph.groups, now)
        inside = choices if region is None else near(choices, region.centre, region.share)
        found = with_as_much_work(inside, costs, macs, macs(even))
        print(f"{name} {target.name}: searched {time.monotonic() - started:.0f} s", flush=True)
        return found

    def say(text: str) -> None:
        print(f"{name} {target.name}: {text}", flush=True)

    problem = Problem(
        solve=solve, even=lambda _: even, layers=cost.layer_widths, loss=lambda _: 0.0
    )
    bench = EngineBench(exported(name, work), target, model.table, say=say)
    confirmed = confirm(problem, model, bench)
    kept = {
        UNIFORM: (even, confirmed.rounds[-1].uniform_predicted_ms),
        BY_LATENCY: (confirmed.widths, confirmed.predicted_ms),
    }
    return {
        label: {
            "macs_ratio": macs(chosen) / macs.total,
            "predicted_ms": predicted,
            "groups": dict(chosen),
            "layers": cost.layer_widths(chosen),
        }
        for label, (chosen, predicted) in kept.items()
    } | {"dense INT8": {"predicted_ms": cost({})}, "confirmed": confirmed.to_dict()}


def with_as_much_work(
    choices: list[Choices], cost: LatencyCost, macs: MacsCost, least: float
) -> dict[str, int]:
    """Widths by latency, at the least latency that keeps so many multiply-adds."""
    chosen = {c.name: c.widths[-1] for c in choices}
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        try:
            found = allocate_by_latency(choices, cost, share * cost({}))
        except UsageError:  # below the floor
            low = share
            continue
        if macs(found) >= least:
            chosen, high = found, share
        else:
            low = share
    return chosen


def times(
    name: str, target: Target, work: Path, found: dict[str, Any], threads: int | None
) -> dict[str, Any]:
    """The four engines, built and measured in turns."""
    dense = exported(name, work)
    config = BuildConfig(device=target.device, threads=threads)
    rows: dict[str, Any] = {}
    with ExitStack() as stack:
        runners = {}
        for label in ROWS:
            stem = f"{name}-{target.name}-{'-'.join(label.replace(',', '').split())}"
            source = dense
            if "layers" in found.get(label, {}):
                source = work / f"{stem}.onnx"
                kept: Widths = {k: (i, o) for k, (i, o) in found[label]["layers"].items()}
                write_narrowed(dense, kept, source)
            macs = node_macs(source)
            if label.endswith("INT8"):
                qdq = work / f"{stem}.qdq.onnx"
                plain = QuantizeSettings(bias_correction="off")
                quantize(source, assumed_ranges(source), target.rules, qdq, plain)
                source = qdq
            engine = target.backend.build(
                source, work / f"{stem}{target.backend.engine_suffix}", config
            )
            covered = int8_coverage(macs, target.backend.layers(engine))
            rows[label] = {"macs": sum(macs.values()), "int8_coverage": covered.int8_coverage}
            runners[label] = stack.enter_context(target.backend.load(engine, config))
        images = made_up_inputs(single_input(runners[ROWS[0]]), 1, count=4)
        measured = measure(runners, images, settings=TIMES)
    for label, row in rows.items():
        row.update(measured[label].to_dict())
        row["speedup"] = speedup(measured[ROWS[0]], measured[label]).to_dict()
        predicted = found.get(label, {}).get("predicted_ms")
        if predicted is not None:
            row["predicted_ms"] = predicted
            row["prediction_error"] = predicted / measured[label].p50_ms - 1
        if "groups" in found.get(label, {}):
            row["groups"] = found[label]["groups"]
    versus = speedup(measured[UNIFORM], measured[BY_LATENCY])
    return {"rows": rows, "by_latency_over_uniform": versus.to_dict()}


def table(results: dict[str, Any]) -> str:
    """The Markdown table of docs/pruning.md."""
    head = ("network, backend", "engine", "MACs", "p50 ms", "speed-up", "predicted ms")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for where, result in results.items():
        dense = result["rows"][ROWS[0]]["macs"]
        for label, row in result["rows"].items():
            predicted = ""
            if "predicted_ms" in row:
                predicted = f"{row['predicted_ms']:.2f} ({100 * row['prediction_error']:+.1f} %)"
            lines.append(
                f"| {where} | {label} | {row['macs'] / dense:.3f} | {row['latency_ms']['p50']:.2f} "
                f"| {row['speedup']['speedup']:.2f}x | {predicted} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Parses arguments, does the phases that are asked for, prints and keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", default="resnet18,resnet50")
    parser.add_argument("--backends", default="onnxruntime,openvino")
    parser.add_argument("--phase", choices=("layers", "widths", "times", "all"), default="all")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--work", type=Path, default=Path("runs/pruning_latency"))
    parser.add_argument("--report", action="store_true", help="only put results together")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for name in arguments.models.split(","):
        for backend in arguments.backends.split(","):
            kept = arguments.work / f"{name}-{backend}-widths.json"
            done = arguments.work / f"{name}-{backend}-times.json"
            if done.exists():
                results[f"{name}, {backend}"] = json.loads(done.read_text())
            if done.exists() or arguments.report:
                continue
            target = open_target(backend)
            model = latency(name, target, arguments.work, arguments.threads)
            if arguments.phase in ("widths", "all") and not kept.exists():
                kept.write_text(json.dumps(widths(name, model, target, arguments.work)))
            if arguments.phase in ("times", "all") and not done.exists():
                found = json.loads(kept.read_text())
                measured = times(name, target, arguments.work, found, arguments.threads)
                measured["multiples"] = asdict(model.table.multiples or Multiples())
                measured["line"] = {"offset_ms": model.offset_ms, "scale": model.scale}
                measured["networks"] = [asdict(network) for network in model.networks]
                measured["confirmed"] = found["confirmed"]
                done.write_text(json.dumps(measured))
            if done.exists():
                results[f"{name}, {backend}"] = json.loads(done.read_text())
    print(table(results))
    if arguments.out:
        content = {
            "environment": asdict(describe_environment()),
            "threads": arguments.threads,
            "results": results,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
