"""INT8 engines of pruned networks: accuracy on the test images and latency, all taking turns.

Used by `pruning.py engines` and `latency`. The dense network is also quantized by ONNX Runtime's
quantizer and NNCF (`quantizers.py`): post-training quantization without pruning is what pruning
has to beat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantizers import TOOLS, Job
from subjects import CALIBRATION, open_subject

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.classifier import single_input
from edgeres.backends.target import Target, open_target
from edgeres.benchmarking.inputs import made_up_inputs
from edgeres.benchmarking.latency import MeasureSettings, measure
from edgeres.benchmarking.speedup import speedup
from edgeres.data.source import open_dataset
from edgeres.evaluation.compare import compare
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import Predictions, load_predictions
from edgeres.graph.summary import summarize
from edgeres.models.checkpoint import Checkpoint, save_checkpoint
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.int8 import calibrate, quantize
from edgeres.stages.network import build, export
from edgeres.system.files import file_sha256

BACKENDS = ("onnxruntime", "openvino")
DENSE = "dense"
PEERS = {"ORT PTQ without pruning": "ort-minmax-u8s8", "NNCF PTQ without pruning": "nncf-onnx"}
TIMES = MeasureSettings(seconds=2.0, rounds=12, min_runs=100, max_seconds=6.0)
SIZE = (28, 28)
NETWORK = "network.safetensors"


@dataclass(frozen=True)
class Built:
    """One engine: of which network, in which precision, on which backend."""

    network: str
    precision: str
    target: Target
    engine: Engine

    @property
    def label(self) -> str:
        """Unique in a run."""
        return f"{self.network} {self.precision} {self.target.name}"


def folder_of(name: str, work: Path) -> Path:
    """Where the files of a network lie."""
    return work / name.replace("/", "-").replace(" ", "-")


def engines_of(
    networks: Mapping[str, Checkpoint], work: Path, *, threads: int | None, peers: bool = True
) -> tuple[list[Built], dict[str, int]]:
    """FP32 and INT8 engines of every network on both backends; multiply-adds by network.

    Args:
        networks: Checkpoints by name; ``dense`` among them.
        work: Where files go; what is there already is taken.
        threads: CPU threads of an engine.
        peers: Whether to quantize the dense network by the other tools too.
    """
    built, macs = [], {}
    for name, checkpoint in networks.items():
        folder = folder_of(name, work)
        folder.mkdir(parents=True, exist_ok=True)
        onnx, table = folder / "fp32.onnx", folder / "table.json"
        network = folder / NETWORK
        before = file_sha256(network) if network.exists() else None
        save_checkpoint(network, checkpoint)
        if not table.exists() or before != file_sha256(network):
            export(network, onnx, image_size=SIZE, settings=ExportSettings())
            assert checkpoint.preprocess is not None
            calibrate(
                onnx,
                table,
                data="fashion-mnist",
                samples=CALIBRATION,
                preprocess=checkpoint.preprocess,
            )
        macs[name] = summarize(onnx).macs
        for target in map(open_target, BACKENDS):
            qdq = folder / f"{target.name}.qdq.onnx"
            quantize(onnx, table, qdq, rules=target.rules, settings=QuantizeBlock())
            for precision, source in (("FP32", onnx), ("INT8", qdq)):
                built.append(_built(name, precision, source, target, folder, threads))
    if peers:
        subject = open_subject("resnet20", work)
        for name, tool in PEERS.items():
            folder = work / tool
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "both.onnx").exists():
                TOOLS[tool](Job(subject, folder, CALIBRATION))
            macs[name] = macs[DENSE]
            built += [
                _built(name, "INT8", folder / "both.onnx", target, folder, threads)
                for target in map(open_target, BACKENDS)
            ]
    return built, macs


def accuracies(built: list[Built], preprocess: Any, work: Path) -> dict[str, Any]:
    """Top-1 on the 10,000 test images, with the paired bound on the drop against dense FP32."""
    images = open_dataset("fashion-mnist", split="validation")
    answers: dict[str, Predictions] = {}
    for item in built:
        path = work / "answers" / f"{file_sha256(item.engine.path)[:16]}-{item.target.name}.npz"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            with item.target.backend.load(item.engine, BuildConfig(item.target.device)) as runner:
                predict(
                    runner,
                    images,
                    preprocess,
                    name=item.label,
                    model_sha256=item.engine.source_sha256,
                ).save(path)
            print(f"evaluated {item.label}", flush=True)
        answers[item.label] = load_predictions(path)
    reference = answers[f"{DENSE} FP32 {BACKENDS[0]}"]
    return {label: compare(reference, found).to_dict() for label, found in answers.items()}


def latencies(built: list[Built], threads: int | None) -> dict[str, Any]:
    """p50 in milliseconds of batch 1, all engines taking turns; speed-up over dense FP32."""
    with ExitStack() as stack:
        runners = {
            item.label: stack.enter_context(
                item.target.backend.load(item.engine, BuildConfig(item.target.device, threads))
            )
            for item in built
        }
        images = made_up_inputs(single_input(next(iter(runners.values()))), 1, count=8)
        found = measure(runners, images, settings=TIMES)
    return {
        item.label: {
            **found[item.label].to_dict(),
            "speedup": speedup(
                found[f"{DENSE} FP32 {item.target.name}"], found[item.label]
            ).to_dict(),
        }
        for item in built
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of docs/pruning.md."""
    head = (
        *("network", "engine", "MACs", "held-out FP32 %", "top-1 %"),
        *("drop pp (95 % bound)", "p50 ms", "speed-up"),
    )
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        told, ms = row.get("accuracy"), row.get("latency")
        cells = [row["network"], f"{row['precision']} {row['backend']}", f"{row['macs_ratio']:.3f}"]
        shown = row.get("held_out_top1")
        cells.append("" if shown is None else f"{100 * shown:.2f}")
        cells += (
            [f"{100 * told['top1']:.2f}", f"{told['drop_pp']:+.2f} ({told['drop_upper_pp']:+.2f})"]
            if told
            else ["", ""]
        )
        cells += (
            [f"{ms['latency_ms']['p50']:.3f}", f"{ms['speedup']['speedup']:.2f}x"]
            if ms
            else ["", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rows_of(
    built: list[Built],
    macs: Mapping[str, int],
    accuracy: Mapping[str, Any],
    latency: Mapping[str, Any],
    held_out: Mapping[str, float | None],
) -> list[dict[str, Any]]:
    """Everything that is known of each engine; ``held_out`` is FP32 top-1 by network."""
    return [
        {
            "network": item.network,
            "precision": item.precision,
            "backend": item.target.name,
            "macs_ratio": macs[item.network] / macs[DENSE],
            **({"held_out_top1": held_out[item.network]} if item.network in held_out else {}),
            **({"accuracy": accuracy[item.label]} if item.label in accuracy else {}),
            **({"latency": latency[item.label]} if item.label in latency else {}),
        }
        for item in built
    ]


def merged(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what an earlier run kept of the same engines and this one did not measure."""
    if not path.exists():
        return rows
    key = ("network", "precision", "backend")
    before = {tuple(r[k] for k in key): r for r in json.loads(path.read_text())["rows"]}
    return [{**before.get(tuple(row[k] for k in key), {}), **row} for row in rows]


def _built(
    name: str, precision: str, source: Path, target: Target, folder: Path, threads: int | None
) -> Built:
    output = folder / f"{precision}-{target.name}"
    engine = build(source, output, target=target.name, device=target.device, threads=threads)
    return Built(name, precision, target, engine)
