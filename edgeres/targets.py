"""The second half of a run: from FP32 ONNX to engines, target by target, and the proof of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeres.backends import get_backend, target_names
from edgeres.backends.base import Backend, BuildConfig, Engine, LayerInfo, QdqRules, Remarks
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
from edgeres.evaluation.fusions import Fusions, count_fusions
from edgeres.evaluation.inspect import engine_size
from edgeres.evaluation.predict import predict
from edgeres.evaluation.predictions import Predictions, load_predictions
from edgeres.files import file_sha256, write_atomic
from edgeres.networks import Network, Networks
from edgeres.onnx_info import node_ops
from edgeres.progress import Advance
from edgeres.quantization.portable import PORTABLE, portable_rules
from edgeres.recipe import BuildBlock
from edgeres.run import Run
from edgeres.stages import build, calibrate, quantize
from edgeres.trained import trained_parameters

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
        config: How its engines are built and run.
        not_executable: Why a built engine cannot run on this machine; ``None`` if it can.
        saturates: Whether INT8 sums overflow on that device, whatever the rule set asks for.
    """

    backend: Backend
    device: str
    rules: QdqRules
    not_executable: str | None
    saturates: bool
    config: BuildConfig

    @property
    def name(self) -> str:
        """Name of the backend, which is the name of the target."""
        return self.backend.name


@dataclass(frozen=True)
class BuiltTarget:
    """A target's INT8 engine, with the folder it lies in and the Q/DQ model it was built from.

    ``search`` is the account of the search for layers to keep in float, where there was one.
    """

    target: Target
    engine: Engine
    qdq: Path
    account: dict[str, Any]
    coverage: Coverage
    layers: tuple[LayerInfo, ...]
    fusions: Fusions
    remarks: Remarks
    search: Path | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the engine with all its files, its sidecar aside."""
        return engine_size(self.engine)

    @property
    def saturation_safe(self) -> bool:
        """Whether a proof shows that no INT8 sum of this model can leave int16."""
        return bool(self.account["saturation_safe"])


def open_target(name: str, device: str | None = None, settings: BuildBlock | None = None) -> Target:
    """Finds a backend and asks it about this machine; the backend's best device if none is named.

    Args:
        name: The backend.
        device: ``cpu`` or ``cuda:N``.
        settings: Its options and shapes.

    Raises:
        UsageError: No such backend, or settings that it does not take.
        BackendMissingError: It is not installed.
    """
    backend = get_backend(name)
    reason = backend.missing()
    if reason is not None:
        raise BackendMissingError(reason)
    device = device or (*backend.devices(), backend.default_device)[0]
    config = (settings or BuildBlock()).to_config(device)
    backend.check(config)
    rules = backend.qdq_rules(device)
    return Target(backend, device, rules, backend.not_executable(), rules.saturating, config)


def open_targets(
    names: Sequence[str],
    *,
    settings: Mapping[str, BuildBlock] | None = None,
    portable: bool = False,
) -> list[Target]:
    """Opens several targets.

    Args:
        names: Of the backends.
        settings: How to build, by name of the backend.
        portable: Let all share the rule set that satisfies each of them.

    Raises:
        EdgeResError: As :func:`open_target`.
    """
    chosen = settings or {}
    targets = [open_target(name, settings=chosen.get(name)) for name in names]
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
    recipe, network = run.recipe, networks.quantized

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


def build_target(
    run: Run, networks: Networks, table: Path, fingerprint: str, target: Target
) -> BuiltTarget:
    """Quantizes for a target, builds its engine and asks it in which precision it runs.

    Args:
        run: The run.
        networks: Its networks.
        table: Calibration table of the network that is quantized.
        fingerprint: Of the calibration images.
        target: What to build for.

    Raises:
        EdgeResError: As the stages do.
    """
    from edgeres.mixed_precision import with_float_layers

    network, block = networks.quantized, run.recipe.quantize
    target, search = with_float_layers(run, networks, table, target)
    trained = trained_parameters(run, networks, table, target.rules)
    inputs = {"model": network.sha256, "table": file_sha256(table)}
    settings = block.model_dump(
        exclude={"equalize", "measured_samples", "portable", "qat", "mixed_precision"}
    )
    settings["rules"] = target.rules.to_dict()
    if trained is not None:
        inputs["trained"] = file_sha256(trained)
    elif block.to_settings().needs_images:
        inputs["data"] = fingerprint
        settings["measured_samples"] = block.measured_samples
        settings["preprocess"] = networks.preprocess.to_dict()
    quantized = run.stage(
        "quantize",
        inputs=inputs,
        settings=settings,
        produce=lambda folder, *_: _quantize(run, networks, table, folder, target, trained),
        label=f"quantize ({target.name})",
    )
    qdq = quantized.file(QDQ)
    engine = build_engine(run, qdq, target, target.config, label=f"build ({target.name})")
    account = json.loads(qdq.with_suffix(".json").read_text())
    inside = _inside(run, network, qdq, engine, target)
    remarks = target.backend.remarks(engine)
    return BuiltTarget(target, engine, qdq, account, *inside, remarks, search)


def build_fp32(run: Run, onnx: Path, target: Target, *, label: str) -> Engine:
    """Builds an FP32 model as it is: options that would change its arithmetic are left out.

    Raises:
        EdgeResError: As the backend's ``build``.
    """
    kept = {
        name: value
        for name, value in target.config.options.items()
        if name not in target.backend.precision_options
    }
    return build_engine(run, onnx, target, replace(target.config, options=kept), label=label)


def build_engine(
    run: Run, onnx: Path, target: Target, config: BuildConfig, *, label: str
) -> Engine:
    """Builds a model whose precision lies in the graph.

    Raises:
        EdgeResError: As the backend's ``build``.
    """
    suffix = target.backend.engine_suffix
    result = run.stage(
        "build",
        inputs={"model": file_sha256(onnx)},
        settings={**_place(target), **_wanted(config)},
        produce=lambda folder, *_: _build(onnx, folder, target, config),
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
        with target.backend.load(
            engine, BuildConfig(target.device, options=_paths(target))
        ) as runner:
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
            **_running(engine),
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


def _quantize(
    run: Run,
    networks: Networks,
    table: Path,
    folder: Path,
    target: Target,
    trained: Path | None,
) -> None:
    data = run.recipe.data
    quantize(
        networks.quantized.onnx,
        table,
        folder / QDQ,
        rules=target.rules,
        settings=run.recipe.quantize,
        data=data.calibration,
        samples=data.calibration_samples,
        preprocess=networks.preprocess,
        trained=trained,
    )


def _build(onnx: Path, folder: Path, target: Target, config: BuildConfig) -> None:
    build(
        onnx,
        folder / ENGINE,
        target=target.name,
        device=target.device,
        options=config.options,
        shapes=config.shapes,
    )


def _inside(
    run: Run, network: Network, qdq: Path, engine: Engine, target: Target
) -> tuple[Coverage, tuple[LayerInfo, ...], Fusions]:
    """What the engine's layers tell; asking them may mean to run it, hence a stage."""

    def produce(folder: Path, *_: object) -> None:
        layers = target.backend.layers(engine)
        found = int8_coverage(network.summary.macs_by_node, layers).to_dict()
        found["fusions"] = asdict(count_fusions(layers, node_ops(qdq)))
        write_atomic(folder / COVERAGE, json.dumps(found, indent=1).encode())
        listed = [asdict(layer) for layer in layers]
        write_atomic(folder / LAYERS, json.dumps(listed, indent=1).encode())

    result = run.stage(
        "inspect",
        inputs={"engine": file_sha256(engine.path), "model": network.sha256},
        settings={**_place(target), **_machine(run), **_running(engine)},
        produce=produce,
        label=f"inspect ({target.name})",
    )
    content = json.loads(result.file(COVERAGE).read_text())
    in_float = tuple(FloatLayer(**layer) for layer in content.pop("float_layers"))
    layers = tuple(
        LayerInfo(**{**layer, "nodes": tuple(layer["nodes"])})
        for layer in json.loads(result.file(LAYERS).read_text())
    )
    fusions = Fusions(**content.pop("fusions"))
    return Coverage(float_layers=in_float, **content), layers, fusions


def _place(target: Target) -> dict[str, Any]:
    """What an engine depends on besides the model: part of the keys."""
    return {
        "backend": target.name,
        "device": target.device,
        "versions": target.backend.versions(),
        "saturating": target.rules.saturating,
    }


def _wanted(config: BuildConfig) -> dict[str, Any]:
    """What was asked of a build, for its key; nothing where nothing was."""
    asked = {
        "options": dict(config.options),
        "shapes": {name: asdict(shapes) for name, shapes in config.shapes.items()},
    }
    return {name: value for name, value in asked.items() if value}


def _running(engine: Engine) -> dict[str, Any]:
    """How an engine is run, for the keys of what comes of it; nothing where that is as ever."""
    return {"options": dict(engine.options)} if engine.options else {}


def _paths(target: Target) -> dict[str, str]:
    """Options that an engine does not remember, because they are paths of this machine."""
    paths, options = target.backend.path_options, target.config.options
    return {name: value for name, value in options.items() if name in paths}


def _machine(run: Run) -> dict[str, Any]:
    """What the answers and the layers of an engine depend on besides the engine."""
    return {"cpu": run.environment.cpu, "isa": list(run.environment.isa)}
