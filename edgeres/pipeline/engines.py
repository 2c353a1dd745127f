"""From FP32 ONNX to built engines: calibration, quantization, build and what lies in them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgeres.backends.base import BuildConfig, Engine, LayerInfo, Remarks
from edgeres.backends.sidecar import engine_size, read_engine
from edgeres.backends.target import Target
from edgeres.data.bad_images import BadImages
from edgeres.errors import ModelError, StageError
from edgeres.evaluation import run_folder
from edgeres.evaluation.coverage import Coverage, int8_coverage
from edgeres.evaluation.fusions import Fusions, count_fusions
from edgeres.graph.summary import node_ops
from edgeres.pipeline.find_source import Source
from edgeres.pipeline.keys import build_key, machine_key, place_key, run_key
from edgeres.pipeline.network import Network
from edgeres.pipeline.networks import Networks
from edgeres.pipeline.qat import qat_parameters
from edgeres.pipeline.run import Run
from edgeres.quantization.account import QuantizeAccount, write_account, write_given_account
from edgeres.quantization.byte_input import write_fed
from edgeres.quantization.quantize import QuantizeResult
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.stages.int8 import calibrate, quantize
from edgeres.stages.network import build
from edgeres.system.files import file_sha256, write_atomic
from edgeres.system.progress import ProgressCallback
from edgeres.system.stored_json import read_stored

ENGINE = "model"
LEFT_OUT = "left_out.txt"
COVERAGE = "coverage.json"
LAYERS = "layers.json"


@dataclass(frozen=True)
class EngineCoverage(Coverage):
    """What a built engine runs in INT8, and where it computes additions and activations."""

    fusions: Fusions


@dataclass(frozen=True)
class BuiltTarget:
    """A target's INT8 engine, with the Q/DQ model it was built from.

    Attributes:
        target: What it was built for.
        engine: The engine.
        qdq: The Q/DQ model.
        account: What was done to make that.
        inside: What the engine runs in INT8.
        layers: Its layers, by its own word.
        remarks: What its builder says.
        search: Account of the search for layers to keep in float, where there was one.
    """

    target: Target
    engine: Engine
    qdq: Path
    account: QuantizeAccount
    inside: EngineCoverage
    layers: tuple[LayerInfo, ...]
    remarks: Remarks
    search: Path | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the engine with all its files, its sidecar aside."""
        return engine_size(self.engine)

    @property
    def saturation_safe(self) -> bool:
        """Whether a proof shows that no INT8 sum of this model can leave int16."""
        return self.account.saturation_safe


def calibration_table(run: Run, networks: Networks) -> Path:
    """One calibration for all targets.

    Raises:
        EdgeResError: As :func:`edgeres.stages.int8.calibrate`.
    """
    recipe, network = run.recipe, networks.quantized
    calibrator = recipe.quantize.calibrator

    def produce(folder: Path, _: Path, progress: ProgressCallback) -> None:
        skipped = BadImages()
        calibrate(
            network.onnx,
            folder / run_folder.TABLE,
            data=run.calibration.used,
            samples=None,
            preprocess=networks.preprocess,
            calibrator=calibrator,
            skipped=skipped,
            progress=progress,
        )
        (folder / LEFT_OUT).write_text(skipped.summary())

    result = run.stage(
        "calibrate",
        inputs={"model": network.sha256, "data": run.calibration.used.fingerprint},
        settings={
            "samples": recipe.data.calibration_samples,
            "preprocess": networks.preprocess.to_dict(),
            "calibrator": calibrator,
        },
        produce=produce,
    )
    run.warn_once(result.file(LEFT_OUT).read_text())
    return result.file(run_folder.TABLE)


def build_target(run: Run, networks: Networks, table: Path, target: Target) -> BuiltTarget:
    """Quantizes for a target, builds its engine and asks it in which precision it runs.

    Args:
        run: The run.
        networks: Its networks.
        table: Calibration table of the network that is quantized.
        target: What to build for.

    Raises:
        EdgeResError: As the stages do.
    """
    from edgeres.pipeline.mixed_precision import with_float_layers

    network = networks.quantized
    if run.recipe.quantize.precision != "int8":
        return _build_float(run, network, target)
    if networks.given is not None:
        return _build_given(run, network, networks.given, target)
    target, search = with_float_layers(run, networks, table, target)
    learned = qat_parameters(run, networks, table, target.rules)
    inputs = {"model": network.sha256, "table": file_sha256(table)}
    block = run.recipe.quantize.part()
    settings: dict[str, object] = {"rules": target.rules.to_dict(), "quantize": block.key()}
    if learned is not None:
        inputs["trained"] = file_sha256(learned)
    elif block.needs_images:
        inputs["data"] = run.calibration.used.fingerprint
        settings["preprocess"] = networks.preprocess.to_dict()
    quantized = run.stage(
        "quantize",
        inputs=inputs,
        settings=settings,
        produce=lambda folder, *_: _quantize(run, networks, table, folder, target, block, learned),
        label=f"quantize ({target.name})",
    )
    qdq = quantized.file(run_folder.QDQ)
    engine = build_engine(run, qdq, target, target.config, label=f"build ({target.name})")
    return _built(run, network, qdq, engine, target, search)


def _build_float(run: Run, network: Network, target: Target) -> BuiltTarget:
    """The target's engine of the network as it is; its "Q/DQ model" holds no Q/DQ."""
    precision = run.recipe.quantize.precision

    def produce(folder: Path, *_: object) -> None:
        write_fed(network.onnx, folder / run_folder.QDQ)
        reasons = dict.fromkeys(network.summary.macs_by_node, f"precision: {precision}")
        qdq = folder / run_folder.QDQ
        write_account(qdq, target.rules, QuantizeResult(qdq, (), reasons, {}, (), {}, {}))

    qdq = run.stage(
        "keep_float",
        inputs={"model": network.sha256},
        settings={"rules": target.rules.to_dict(), "precision": precision},
        produce=produce,
        label=f"keep {precision.upper()} ({target.name})",
    ).file(run_folder.QDQ)
    label = f"build ({target.name})"
    if precision == "fp32":
        engine = build_fp32(run, qdq, target, label=label)
    else:
        engine = build_engine(run, qdq, target, _float_config(target, precision), label=label)
    return _built(run, network, qdq, engine, target)


def _build_given(run: Run, network: Network, given: Source, target: Target) -> BuiltTarget:
    """The target's engine of a file that another tool has quantized, with its scales."""

    def produce(folder: Path, *_: object) -> None:
        from edgeres.exporting.keep_scales import keep_scales

        nodes = keep_scales(given.path, network.onnx, folder / run_folder.QDQ)
        write_given_account(folder / run_folder.QDQ, nodes)

    qdq = run.stage(
        "keep_scales",
        inputs={"model": network.sha256, "given": given.sha256},
        settings={},
        produce=produce,
        label="keep the given scales",
    ).file(run_folder.QDQ)
    engine = build_engine(run, qdq, target, target.config, label=f"build ({target.name})")
    return _built(run, network, qdq, engine, target)


def _built(
    run: Run,
    network: Network,
    qdq: Path,
    engine: Engine,
    target: Target,
    search: Path | None = None,
) -> BuiltTarget:
    account, remarks = QuantizeAccount.beside(qdq), target.backend.remarks(engine)
    inside, layers = _inside(run, network, qdq, engine, target)
    return BuiltTarget(target, engine, qdq, account, inside, layers, remarks, search)


def build_fp32(run: Run, onnx: Path, target: Target, *, label: str) -> Engine:
    """Builds an FP32 model as it is: options that would change its arithmetic are left out.

    Raises:
        EdgeResError: As the backend's ``build``.
    """
    options = {
        name: value
        for name, value in target.config.options.items()
        if name not in target.backend.precision_options
    }
    return build_engine(run, onnx, target, replace(target.config, options=options), label=label)


def build_floats(run: Run, network: Network, target: Target) -> dict[str, Engine]:
    """The float engines of a target that may be faster than its FP32 one, by their arithmetic.

    None where the network stays in float, as there is no INT8 to compare. One that cannot be built,
    as where a value is too large for it, is told and left out.

    Raises:
        EdgeResError: A result cannot be stored.
    """
    engines: dict[str, Engine] = {}
    if run.recipe.quantize.precision != "int8":
        return engines
    for name in target.backend.float_builds(target.device):
        config = _float_config(target, name)
        label = f"build {name.upper()} {network.label} ({target.name})"
        try:
            engines[name] = build_engine(run, network.onnx, target, config, label=label)
        except (ModelError, StageError) as error:
            run.warn_once(
                f"{target.name}: INT8 is compared with no {name.upper()}: {error.message}"
            )
    return engines


def _float_config(target: Target, arithmetic: str) -> BuildConfig:
    """How a float engine of some arithmetic is built."""
    options = {**target.config.options, **target.backend.float_builds(target.device)[arithmetic]}
    return replace(target.config, options=options)


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
        settings={**place_key(target), **build_key(config)},
        produce=lambda folder, _, progress: _build(onnx, folder, target, config, progress),
        label=label,
    )
    return read_engine(result.file(ENGINE + suffix))


def _quantize(
    run: Run,
    networks: Networks,
    table: Path,
    folder: Path,
    target: Target,
    block: QuantizeSettings,
    learned: Path | None,
) -> None:
    quantize(
        networks.quantized.onnx,
        table,
        folder / run_folder.QDQ,
        rules=target.rules,
        settings=block,
        data=run.calibration.used,
        preprocess=networks.preprocess,
        qat=learned,
    )


def _build(
    onnx: Path, folder: Path, target: Target, config: BuildConfig, progress: ProgressCallback
) -> None:
    build(
        onnx,
        folder / ENGINE,
        target=target.name,
        device=target.device,
        options=config.options,
        shapes=config.shapes,
        progress=progress,
    )


def _inside(
    run: Run, network: Network, qdq: Path, engine: Engine, target: Target
) -> tuple[EngineCoverage, tuple[LayerInfo, ...]]:
    """What the engine's layers tell; asking them may mean to run it, hence a stage."""

    def produce(folder: Path, *_: object) -> None:
        layers = target.backend.layers(engine)
        coverage = int8_coverage(network.summary.macs_by_node, layers)
        inside = EngineCoverage(**vars(coverage), fusions=count_fusions(layers, node_ops(qdq)))
        write_atomic(folder / COVERAGE, json.dumps(asdict(inside), indent=1).encode())
        rows = [asdict(layer) for layer in layers]
        write_atomic(folder / LAYERS, json.dumps(rows, indent=1).encode())

    result = run.stage(
        "inspect",
        inputs={"engine": file_sha256(engine.path), "model": network.sha256},
        settings={**place_key(target), **machine_key(run), **run_key(engine)},
        produce=produce,
        label=f"inspect ({target.name})",
    )
    return (
        read_stored(result.file(COVERAGE), EngineCoverage),
        read_stored(result.file(LAYERS), tuple[LayerInfo, ...]),
    )
