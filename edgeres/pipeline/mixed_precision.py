"""The stage that chooses layers to keep in float, with the engines of one target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.target import Target
from edgeres.benchmarking.benchmark import benchmark
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.data.batches import batches
from edgeres.errors import UsageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.coverage import int8_coverage
from edgeres.evaluation.passes import answer
from edgeres.pipeline.keys import build_key, machine_key, path_key, place_key
from edgeres.pipeline.measure import timed_batches
from edgeres.pipeline.networks import Networks
from edgeres.pipeline.run import Run
from edgeres.pipeline.tasks import task_key
from edgeres.quantization.effect import Effect, Given, Judged, effect_of
from edgeres.quantization.float_search import fused_sums
from edgeres.quantization.mixed_precision import Budget, Measured, MixedPrecision, search
from edgeres.quantization.sensitivity import Sensitivity, sensitivity
from edgeres.quantization.simulate import simulated_outputs
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import MixedPrecisionSettings
from edgeres.stages.int8 import quantize
from edgeres.stages.judged_by import judged_by
from edgeres.stages.network import build
from edgeres.system.files import file_sha256, write_atomic
from edgeres.system.progress import ProgressCallback
from edgeres.system.stored_json import read_stored
from edgeres.system.temporary import temporary_folder

_BATCH = 32


def with_float_layers(
    run: Run, networks: Networks, table: Path, target: Target
) -> tuple[Target, Path | None]:
    """Finds the layers that the recipe's budget keeps in float.

    Returns:
        The target with those layers in its rule set, and the account of the search (JSON);
        ``None`` where nothing was searched.

    Raises:
        GateError: The budget cannot be held.
        DataError: Too few calibration images are left to hold out, or they have no labels.
        EdgeResError: As quantizing, building and running do.
    """
    recipe, network = run.recipe, networks.quantized
    block = recipe.quantize.mixed_precision
    if block is None:
        return target, None
    if target.not_executable is not None:
        run.warn_once(
            f"{target.name}: mixed precision is not searched where the engine cannot run: "
            f"{target.not_executable}"
        )
        return target, None
    held_out = run.calibration.held_out(block.samples)

    def produce(folder: Path, _: Path, progress: ProgressCallback) -> None:
        parts = [part for part, _ in batches(held_out, networks.preprocess, _BATCH)]
        gated = next(iter(recipe.gates.gated), "")
        judged = judged_by(held_out, networks.preprocess, run.task, gated)
        workshop = _Workshop(run, networks, table, target, np.concatenate(parts), judged, progress)
        choice = json.dumps(workshop.search().to_dict(), indent=1)
        write_atomic(folder / run_folder.MIXED_PRECISION, choice.encode())

    result = run.stage(
        "mixed_precision",
        inputs={
            "model": network.sha256,
            "dense": networks.dense.sha256,
            "table": file_sha256(table),
            "held_out": held_out.fingerprint,
        },
        settings={
            "rules": target.rules.to_dict(),
            "quantize": recipe.quantize.part().key(),
            "mixed_precision": block.key(),
            "min_int8_coverage": recipe.gates.min_int8_coverage,
            "metric": list(recipe.gates.gated),
            **task_key(run),
            "benchmark": recipe.benchmark.model_dump(include={"batch_size", "threads"}),
            "preprocess": networks.preprocess.to_dict(),
            **place_key(target),
            **build_key(target.config),
            **machine_key(run),
        },
        produce=produce,
        label=f"mixed precision ({target.name})",
    )
    account = result.file(run_folder.MIXED_PRECISION)
    keep_float = frozenset(read_stored(account, MixedPrecision).keep_float)
    return replace(target, rules=replace(target.rules, keep_float=keep_float)), account


class _Workshop:
    """Builds and runs engines with some nodes in float; keeps each until the search is over."""

    def __init__(
        self,
        run: Run,
        networks: Networks,
        table: Path,
        target: Target,
        images: NDArray[np.float32],
        judged: Judged | None,
        progress: ProgressCallback,
    ) -> None:
        self._settings = run.recipe.quantize
        self._benchmark = run.recipe.benchmark
        self._least = run.recipe.gates.min_int8_coverage
        self._networks = networks
        self._table = table
        self._target = target
        self._images = images
        self._judged = judged
        self._classes = run.task is None
        self._progress = progress
        self._folder = Path()
        self._engines: dict[frozenset[str], Engine] = {}

    def search(self) -> MixedPrecision:
        """Runs the search."""
        block = self._settings.mixed_precision
        assert block is not None
        fp32, dense = self._networks.quantized, self._networks.dense
        self._exact = simulated_outputs(fp32.onnx, [self._images])
        own = self._effect(self._exact)
        reference = own.figure
        if fp32.sha256 != dense.sha256:
            brought = simulated_outputs(dense.onnx, [self._images])
            reference = effect_of(brought, brought, self._judged, classes=self._classes).figure
        with temporary_folder() as folder:
            self._folder = folder
            return search(
                self._budget(block, reference),
                own,
                self._answers,
                self._sensitivity,
                self._latencies,
                min_int8_coverage=self._least,
                candidates=block.candidates,
                fused=fused_sums(fp32.onnx),
            )

    def _engine(self, keep_float: frozenset[str]) -> Engine:
        if keep_float not in self._engines:
            target = self._target
            place = self._folder / str(len(self._engines))
            rules = replace(target.rules, keep_float=keep_float)
            qdq = place / run_folder.QDQ
            place.mkdir()
            quantize(
                self._networks.quantized.onnx,
                self._table,
                qdq,
                rules=rules,
                settings=self._settings,
            )
            self._engines[keep_float] = build(
                qdq,
                place / "model",
                target=target.name,
                device=target.device,
                options=target.config.options,
                shapes=target.config.shapes,
            )
        return self._engines[keep_float]

    def _answers(self, keep_float: frozenset[str]) -> Measured:
        engine, backend = self._engine(keep_float), self._target.backend
        config = BuildConfig(self._target.device, options=path_key(self._target))
        parts = []
        with backend.load(engine, config) as runner:
            for start in range(0, len(self._images), _BATCH):
                parts.append(answer(runner, self._images[start : start + _BATCH]))
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        if len(found) == 1:  # a runtime may call the one output as it likes
            found = dict(zip(self._exact, found.values(), strict=True))
        coverage = int8_coverage(
            self._networks.quantized.summary.macs_by_node, backend.layers(engine)
        ).int8_coverage
        return Measured(self._effect(found), coverage)

    def _effect(self, outputs: Given) -> Effect:
        return effect_of(self._exact, outputs, self._judged, classes=self._classes)

    def _budget(self, block: MixedPrecisionSettings, reference: float | None) -> Budget:
        budget = Budget(block.max_drop, block.min_agreement, block.min_sqnr_db, reference)
        if self._judged is None or block.max_drop is None:
            return budget
        _, _, metric = self._judged.chosen(self._exact)
        if metric.closeness is not None:
            raise UsageError(
                f"`quantize.mixed_precision`: {metric.title} has no drop: it says how near an "
                "engine is to FP32.",
                hint="Use `min_sqnr_db` in place of `max_drop`.",
            )
        return replace(
            budget,
            metric=metric.title,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
        )

    def _sensitivity(self) -> Sensitivity:
        return sensitivity(
            self._networks.quantized.onnx,
            CalibrationTable.load(self._table),
            self._target.rules,
            self._images,
            self._judged,
            classes=self._classes,
            settings=self._settings,
            progress=self._progress,
        )

    def _latencies(self, sets: Sequence[frozenset[str]]) -> list[float]:
        block = self._settings.mixed_precision
        assert block is not None
        size = self._benchmark.batch_size
        images = self._images
        inputs = timed_batches(
            [images[start : start + size] for start in range(0, len(images), size)], size
        )
        engines = [self._engine(keep_float) for keep_float in sets]
        times = benchmark(
            [engine.path for engine in engines],
            inputs=inputs,
            threads=self._benchmark.threads,
            settings=MeasureSettings(seconds=block.seconds),
            progress=self._progress,
        ).engines
        return [times[str(engine.path)].latency.p50_ms for engine in engines]
