"""The second half of a run: from FP32 ONNX to engines, target by target, and the proof of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeres.backends import get_backend, target_names
from edgeres.backends.base import Backend, BuildConfig, Engine, LayerInfo, QdqRules
from edgeres.backends.sidecar import read_engine
from edgeres.benchmarking.benchmark import EngineTimes, benchmark
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.container_limits import usable_threads
from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import BackendMissingError, DataError, UsageError
from edgeres.evaluation.coverage import Coverage, FloatLayer, int8_coverage
from edgeres.evaluation.inspect import engine_size
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import Predictions, load_predictions
from edgeres.files import file_sha256, write_atomic
from edgeres.networks import Network, Networks
from edgeres.progress import Advance
from edgeres.quantization.portable import PORTABLE, portable_rules
from edgeres.run import Run
from edgeres.stages import build, calibrate, quantize

ENGINE = "model"
TABLE = "calibration_table.json"
QDQ = "model.qdq.onnx"
PREDICTIONS = "predictions.npz"
LEFT_OUT = "left_out.txt"
COVERAGE = "coverage.json"
LAYERS = "layers.json"
EVALUATION_BATCH = 64
LATENCY_INPUTS = 8


@dataclass(frozen=True)
class Target:
    """A backend on a device, and how weights and activations must be quantized for it.

    Attributes:
        backend: The engine maker.
        device: Where its engines run, ``cpu`` or ``cuda:N``.
        rules: Rule set of that device.
        not_executable: Why a built engine cannot run on this machine; ``None`` if it can.
        saturates: Whether INT8 sums overflow on that device, whatever the rule set asks for.
    """

    backend: Backend
    device: str
    rules: QdqRules
    not_executable: str | None
    saturates: bool

    @property
    def name(self) -> str:
        """Name of the backend, which is the name of the target."""
        return self.backend.name


@dataclass(frozen=True)
class BuiltTarget:
    """A target's INT8 engine, with the folder it lies in and the Q/DQ model it was built from."""

    target: Target
    engine: Engine
    qdq: Path
    account: dict[str, Any]
    coverage: Coverage
    layers: tuple[LayerInfo, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of the engine with all its files, its sidecar aside."""
        return engine_size(self.engine)

    @property
    def saturation_safe(self) -> bool:
        """Whether a proof shows that no INT8 sum of this model can leave int16."""
        return bool(self.account["saturation_safe"])


def open_target(name: str, device: str | None = None) -> Target:
    """Finds a backend and asks it about this machine; the backend's best device if none is named.

    Raises:
        UsageError: No such backend.
        BackendMissingError: It is not installed.
    """
    backend = get_backend(name)
    reason = backend.missing()
    if reason is not None:
        raise BackendMissingError(reason)
    device = device or (*backend.devices(), backend.default_device)[0]
    rules = backend.qdq_rules(device)
    return Target(backend, device, rules, backend.not_executable(), rules.saturating)


def open_targets(names: Sequence[str], *, portable: bool = False) -> list[Target]:
    """Opens several targets; with ``portable`` they share the rule set that satisfies all.

    Raises:
        EdgeResError: As :func:`open_target`.
    """
    targets = [open_target(name) for name in names]
    if not portable:
        return targets
    shared = portable_rules([target.rules for target in targets])
    return [replace(target, rules=shared) for target in targets]


def rules_of(name: str, device: str | None = None) -> QdqRules:
    """Rule set of a target, or with the name ``portable`` the one that satisfies all targets.

    Raises:
        UsageError: No such target, or a device for ``portable``.
        BackendMissingError: A backend is not installed.
    """
    if name != PORTABLE:
        return open_target(name, device).rules
    if device is not None:
        raise UsageError(
            f"a portable file is for no device, got {device!r}.", hint="Leave --device out."
        )
    return open_targets(target_names(), portable=True)[0].rules


def calibration_table(run: Run, networks: Networks, fingerprint: str) -> Path:
    """One calibration for all targets.

    Raises:
        EdgeResError: As :func:`edgeres.stages.calibrate`.
    """
    recipe, network = run.recipe, networks.final

    def produce(folder: Path, _: Path, progress: Advance) -> None:
        bad = BadImages()
        calibrate(
            network.onnx,
            folder / TABLE,
            data=recipe.data.calibration,
            samples=recipe.data.calibration_samples,
            preprocess=networks.preprocess,
            settings=recipe.quantize,
            bad=bad,
            progress=progress,
        )
        (folder / LEFT_OUT).write_text(bad.summary())

    result = run.stage(
        "calibrate",
        inputs={"model": network.sha256, "data": fingerprint},
        settings={
            "samples": recipe.data.calibration_samples,
            "preprocess": networks.preprocess.to_dict(),
            "calibrator": recipe.quantize.calibrator,
        },
        produce=produce,
    )
    run.warn_once(result.file(LEFT_OUT).read_text())
    return result.file(TABLE)


def build_target(run: Run, networks: Networks, table: Path, target: Target) -> BuiltTarget:
    """Quantizes for a target, builds its engine and asks it in which precision it runs.

    Raises:
        EdgeResError: As the stages do.
    """
    network, recipe = networks.final, run.recipe
    rules = {**asdict(target.rules), "ops": sorted(target.rules.ops)}
    quantized = run.stage(
        "quantize",
        inputs={"model": network.sha256, "table": file_sha256(table)},
        settings={"rules": rules, **recipe.quantize.model_dump()},
        produce=lambda folder, *_: _quantize(run, network, table, folder, target),
        label=f"quantize ({target.name})",
    )
    qdq = quantized.file(QDQ)
    engine = build_engine(run, qdq, target, label=f"build ({target.name})")
    account = json.loads(qdq.with_suffix(".json").read_text())
    return BuiltTarget(target, engine, qdq, account, *_inside(run, network, engine, target))


def build_engine(run: Run, onnx: Path, target: Target, *, label: str) -> Engine:
    """Builds an FP32 or Q/DQ model for a target.

    Raises:
        EdgeResError: As the backend's ``build``.
    """
    suffix = target.backend.engine_suffix
    result = run.stage(
        "build",
        inputs={"model": file_sha256(onnx)},
        settings=_place(target),
        produce=lambda folder, *_: _build(onnx, folder, target),
        label=label,
    )
    return read_engine(result.file(ENGINE + suffix))


def predictions(
    run: Run,
    engine: Engine,
    target: Target,
    *,
    validation: Dataset,
    preprocess: Preprocess,
    label: str,
) -> Predictions:
    """Runs an engine over the validation images, each once.

    Raises:
        EdgeResError: As :func:`edgeres.evaluation.predict.predict` and the backend's ``load``.
    """

    def produce(folder: Path, _: Path, progress: Advance) -> None:
        bad = BadImages()
        with target.backend.load(engine, BuildConfig(device=target.device)) as runner:
            predict(
                runner,
                validation,
                preprocess,
                batch_size=EVALUATION_BATCH,
                name=label,
                model_sha256=engine.source_sha256,
                workers=usable_threads(),
                bad=bad,
                progress=progress,
            ).save(folder / PREDICTIONS)
        (folder / LEFT_OUT).write_text(bad.summary())

    result = run.stage(
        "evaluate",
        inputs={"engine": file_sha256(engine.path), "data": validation.fingerprint},
        settings={
            **_place(target),
            **_machine(run),
            "preprocess": preprocess.to_dict(),
        },
        produce=produce,
        label=f"evaluate ({label})",
    )
    run.warn_once(result.file(LEFT_OUT).read_text())
    return load_predictions(result.file(PREDICTIONS))


def latencies(
    run: Run,
    pairs: Sequence[tuple[Target, Engine, Engine]],
    validation: Dataset,
    preprocess: Preprocess,
) -> dict[str, tuple[EngineTimes, EngineTimes]]:
    """Times FP32 and INT8 engines of every target, all taking turns.

    Args:
        run: The run.
        pairs: Target, its FP32 engine, its INT8 engine.
        validation: Where the images come from.
        preprocess: How an image becomes numbers.

    Returns:
        Target name to (FP32, INT8).

    Raises:
        EdgeResError: As :func:`edgeres.benchmarking.benchmark.benchmark`.
    """
    settings = run.recipe.benchmark
    count = min(len(validation), LATENCY_INPUTS * settings.batch_size)
    images = validation.subset(range(count))
    feeds = [
        batch
        for batch, _ in batches(images, preprocess, settings.batch_size, bad=BadImages(1.0))
        if len(batch) == settings.batch_size
    ]
    if not feeds:
        raise DataError(
            f"{validation.name}: {len(validation)} images are fewer than one batch of "
            f"{settings.batch_size}.",
            hint="Lower `benchmark: {batch_size: ...}`.",
        )
    with run.measured("benchmark") as progress:
        found = benchmark(
            [engine.path for _, *engines in pairs for engine in engines],
            inputs=feeds,
            threads=settings.threads,
            settings=MeasureSettings(seconds=settings.seconds),
            progress=progress,
        ).engines
    return {
        target.name: (found[str(fp32.path)], found[str(int8.path)]) for target, fp32, int8 in pairs
    }


def _quantize(run: Run, network: Network, table: Path, folder: Path, target: Target) -> None:
    quantize(network.onnx, table, folder / QDQ, rules=target.rules, settings=run.recipe.quantize)


def _build(onnx: Path, folder: Path, target: Target) -> None:
    build(onnx, folder / ENGINE, target=target.name, device=target.device)


def _inside(
    run: Run, network: Network, engine: Engine, target: Target
) -> tuple[Coverage, tuple[LayerInfo, ...]]:
    """INT8 coverage and layers of an engine, by its own word."""

    def produce(folder: Path, *_: object) -> None:
        layers = target.backend.layers(engine)
        found = int8_coverage(network.summary.macs_by_node, layers)
        write_atomic(folder / COVERAGE, json.dumps(found.to_dict(), indent=1).encode())
        listed = [asdict(layer) for layer in layers]
        write_atomic(folder / LAYERS, json.dumps(listed, indent=1).encode())

    result = run.stage(
        "inspect",
        inputs={"engine": file_sha256(engine.path), "model": network.sha256},
        settings={**_place(target), **_machine(run)},
        produce=produce,
        label=f"inspect ({target.name})",
    )
    content = json.loads(result.file(COVERAGE).read_text())
    in_float = tuple(FloatLayer(**layer) for layer in content.pop("float_layers"))
    layers = tuple(
        LayerInfo(**{**layer, "nodes": tuple(layer["nodes"])})
        for layer in json.loads(result.file(LAYERS).read_text())
    )
    return Coverage(float_layers=in_float, **content), layers


def _place(target: Target) -> dict[str, Any]:
    """What an engine depends on besides the model: part of the keys."""
    return {
        "backend": target.name,
        "device": target.device,
        "versions": target.backend.versions(),
        "saturating": target.rules.saturating,
    }


def _machine(run: Run) -> dict[str, Any]:
    """What the answers and the layers of an engine depend on besides the engine."""
    return {"cpu": run.environment.cpu, "isa": list(run.environment.isa)}
