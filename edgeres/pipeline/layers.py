"""What each layer costs, measured on the engines of a run: evidence that the report page shows.

Two measurements that answer two questions. How far is each layer of the real engine from the FP32
network (:mod:`edgeres.evaluation.layerwise`); and how much noise would each layer bring to the
outputs if it alone were INT8 (:mod:`edgeres.quantization.sensitivity`), which is simulated and so
is known of an engine that cannot run here, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgeres.data.batches import batches
from edgeres.data.sampling import take
from edgeres.data.types import Dataset
from edgeres.errors import EdgeResError, StorageError
from edgeres.evaluation.layerwise import compare
from edgeres.pipeline.engines import BuiltTarget
from edgeres.pipeline.keys import machine_key, place_key, run_key
from edgeres.pipeline.networks import Networks
from edgeres.pipeline.run import Run
from edgeres.quantization.sensitivity import sensitivity
from edgeres.quantization.table import CalibrationTable
from edgeres.system.files import file_sha256, write_atomic
from edgeres.system.progress import ProgressCallback
from edgeres.system.store import StageResult

_BATCH = 32
_FILE = "layers.json"


@dataclass(frozen=True)
class LayerFiles:
    """What was measured of one target's layers, as JSON files; ``None`` where it could not be."""

    compared: Path | None
    sensitivity: Path | None


def measure_layers(
    run: Run, networks: Networks, table: Path, built: Sequence[BuiltTarget], validation: Dataset
) -> dict[str, LayerFiles]:
    """Measures the layers of every target, where the recipe asks for it.

    An engine that cannot be looked into is a warning of the run and no error: it stands, and its
    verdict does not depend on this.

    Args:
        run: The run.
        networks: Its networks.
        table: Calibration table of the network that was quantized.
        built: The engines.
        validation: Images; the first ``report.layer_samples`` with the classes in turn are used.

    Returns:
        Target to its files; empty where the recipe does not ask. FP32 engines have no sensitivity.
    """
    block = run.recipe.report
    if not block.layers:
        return {}
    images = take(validation, min(block.layer_samples, len(validation)))
    files = {}
    for item in built:
        alone = compared = None
        if run.recipe.quantize.precision == "int8":
            alone = _tried(run, item, partial(_sensitivity, run, networks, table, item, images))
        if item.target.not_executable is None:
            compared = _tried(run, item, partial(_compared, run, networks, item, images))
        files[item.target.name] = LayerFiles(compared, alone)
    return files


def _tried(run: Run, item: BuiltTarget, stage: Callable[[], StageResult]) -> Path | None:
    try:
        return stage().file(_FILE)
    except StorageError:  # a full disk is not of these layers alone
        raise
    except EdgeResError as error:
        reason = f"{error.message} {error.hint}".strip()
        run.warn_once(f"{item.target.name}: its layers were not measured: {reason}")
        return None


def _compared(run: Run, networks: Networks, item: BuiltTarget, images: Dataset) -> StageResult:
    """The engine against the FP32 network that was quantized, layer by layer."""
    fp32, target = networks.quantized, item.target

    def produce(folder: Path, _: Path, progress: ProgressCallback) -> None:
        comparison = compare(
            fp32.onnx,
            item.engine.path,
            images,
            networks.preprocess,
            sources=[item.qdq],
            threads=run.recipe.benchmark.threads,
            progress=progress,
        )
        names = {
            item.engine.path: f"{target.name}/{item.engine.path.name}",
            fp32.onnx: "FP32",
        }
        write_atomic(folder / _FILE, _as_json(comparison.to_dict(), names))

    return run.stage(
        "compare_layers",
        inputs={
            "engine": file_sha256(item.engine.path),
            "source": file_sha256(item.qdq),
            "model": fp32.sha256,
            "images": images.fingerprint,
        },
        settings={
            "preprocess": networks.preprocess.to_dict(),
            "benchmark": run.recipe.benchmark.model_dump(include={"threads"}),
            **place_key(target),
            **machine_key(run),
            **run_key(item.engine),
        },
        produce=produce,
        label=f"compare layers ({target.name})",
    )


def _sensitivity(
    run: Run, networks: Networks, table: Path, item: BuiltTarget, images: Dataset
) -> StageResult:
    """Noise in the outputs of each layer alone, under the target's rules."""
    fp32 = networks.quantized
    block = run.recipe.quantize.without_images()

    def produce(folder: Path, _: Path, progress: ProgressCallback) -> None:
        parts = [part for part, _ in batches(images, networks.preprocess, _BATCH)]
        noise = sensitivity(
            fp32.onnx,
            CalibrationTable.load(table),
            item.target.rules,
            np.concatenate(parts),
            classes=run.task is None,
            settings=block,
            threads=run.recipe.benchmark.threads,
            progress=progress,
        )
        write_atomic(folder / _FILE, _as_json(noise.to_dict(), {}))

    return run.stage(
        "sensitivity",
        inputs={
            "model": fp32.sha256,
            "table": file_sha256(table),
            "images": images.fingerprint,
        },
        settings={
            "rules": item.target.rules.to_dict(),
            "quantize": block.key(),
            "preprocess": networks.preprocess.to_dict(),
            "benchmark": run.recipe.benchmark.model_dump(include={"threads"}),
            **machine_key(run),
        },
        produce=produce,
        label=f"sensitivity ({item.target.name})",
    )


def _as_json(content: Mapping[str, object], names: Mapping[Path, str]) -> bytes:
    """JSON in which files of the store have the names that a reader knows."""
    text = json.dumps(content, indent=1) + "\n"
    for path, name in names.items():
        text = text.replace(json.dumps(str(path))[1:-1], name)
    return text.encode()
