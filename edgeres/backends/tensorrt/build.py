"""Turns a linted ONNX file into a TensorRT plan and keeps what the builder said about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeres.backends.base import ShapeRange
from edgeres.backends.tensorrt.api import (
    Trt,
    allow_graph_precisions,
    create_network,
    set_targets,
)
from edgeres.backends.tensorrt.flags import set_flags
from edgeres.backends.tensorrt.log import TrtLog, make_log, make_monitor
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.backends.tensorrt.profile import batch_profile
from edgeres.errors import (
    BackendMissingError,
    EdgeResError,
    ModelError,
    StageError,
    UsageError,
    one_line,
)
from edgeres.system.files import write_atomic
from edgeres.system.progress import ProgressCallback


@dataclass(frozen=True)
class BuiltPlan:
    """A serialized engine and what its builder said.

    Attributes:
        plan: The serialized engine.
        layer_log: Messages that hold the list of layers.
        warnings: The builder's own warnings, each once, in order.
        shapes: Ranges of the inputs with a dynamic size.
    """

    plan: bytes
    layer_log: tuple[str, ...]
    warnings: tuple[str, ...]
    shapes: Mapping[str, ShapeRange]


def build_plan(
    trt: Trt,
    onnx: Path,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
    *,
    half: bool = False,
    shown: str = "",
    progress: ProgressCallback | None = None,
) -> BuiltPlan:
    """Parses and builds.

    Args:
        trt: The imported TensorRT.
        onnx: The linted file.
        options: Checked options.
        shapes: Shape range by input name; a dynamic batch without one gets 1 to ``max_batch``.
        half: What is not INT8 is float16: in the graph, or by a flag in 8.6.
        shown: What messages call the file; its path by default.
        progress: Called with (done, known) steps of the build where TensorRT reports them; it may
            not raise.

    Raises:
        ModelError: TensorRT does not take the model.
        UsageError: A shape range or an option that does not fit.
        BackendMissingError: An option that this TensorRT or this machine cannot do.
        StageError: The build failed.
    """
    module = trt.module
    shown = shown or str(onnx)
    log = make_log(trt)
    try:
        builder = module.Builder(log)
    except TypeError as error:  # pybind's way to say that the constructor returned nothing
        raise BackendMissingError(
            f"{trt.title} cannot start its builder here ({log.first_error() or error}).",
            hint="Standard TensorRT needs a GPU to build; flavor=tensorrt_rtx does not.",
        ) from error
    network = _parse(trt, builder, log, onnx, shown)
    builder_config = builder.create_builder_config()
    builder_config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    allow_graph_precisions(trt, network, builder_config, half=half)
    set_targets(trt, builder_config, options.compute_capabilities)
    set_flags(trt, builder_config, options)
    _set_options(trt, builder, builder_config, options)
    ranges = batch_profile(builder, network, builder_config, options, shapes)
    timing_cache = _load_timing_cache(trt, builder_config, options.timing_cache)
    monitor = make_monitor(trt, progress)
    if monitor is not None and hasattr(builder_config, "progress_monitor"):
        builder_config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, builder_config)
    if serialized is None:
        raise _build_error(trt, shown, log)
    if timing_cache is not None and options.timing_cache is not None:
        write_atomic(options.timing_cache, bytes(timing_cache.serialize()))
    return BuiltPlan(bytes(serialized), tuple(log.layer_messages), tuple(log.warnings), ranges)


def _parse(trt: Trt, builder: Any, log: TrtLog, onnx: Path, shown: str) -> Any:
    network = create_network(trt, builder)
    parser = trt.module.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx)):
        return network
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    text = str(errors[0]) if errors else log.first_error() or "no reason given"
    raise ModelError(
        f"{shown}: {trt.title} does not take the model: {one_line(text)}.",
        hint="Quantize it with `edgeres quantize --target tensorrt`, or see docs/tensorrt.md.",
    )


def _build_error(trt: Trt, shown: str, log: TrtLog) -> EdgeResError:
    text = log.first_error() or "no reason given"
    hint = "Run again with -v to see all that the builder said."
    if "workspace" in text:
        hint = "Raise the option workspace_mib or leave it out."
    return StageError(f"{shown}: {trt.title} could not build it: {one_line(text)}.", hint=hint)


def _set_options(trt: Trt, builder: Any, builder_config: Any, options: TensorRTOptions) -> None:
    module = trt.module
    _share_profile(module, builder_config)
    if options.workspace_mib is not None:
        limit = options.workspace_mib * 2**20
        builder_config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, limit)
    if options.optimization_level is not None:
        builder_config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility is not None:
        name = options.hardware_compatibility.upper()
        if trt.is_rtx or not hasattr(module.HardwareCompatibilityLevel, name):
            raise UsageError(
                f"{trt.title} has no hardware_compatibility={options.hardware_compatibility}.",
                hint="With TensorRT for RTX say compute_capabilities instead.",
            )
        level = getattr(module.HardwareCompatibilityLevel, name)
        builder_config.hardware_compatibility_level = level
    if options.version_compatible:
        if trt.is_rtx:
            raise UsageError(
                f"{trt.title} makes no version-compatible plan without a GPU.",
                hint="Leave version_compatible out; building again takes a second.",
            )
        builder_config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.dla_core is not None:
        if options.dla_core >= builder.num_DLA_cores:
            raise BackendMissingError(
                f"dla_core={options.dla_core}: {trt.title} sees {builder.num_DLA_cores} DLA cores "
                "here.",
                hint="DLA is on Jetson Orin, with TensorRT 10 up to 10.7 or 11.4.1 and later.",
            )
        builder_config.default_device_type = module.DeviceType.DLA
        builder_config.DLA_core = options.dla_core
        builder_config.set_flag(module.BuilderFlag.GPU_FALLBACK)


def _share_profile(module: Any, builder_config: Any) -> None:
    """Lets several execution contexts use the one profile: a preview in 8.6, asked for up to 10."""
    if hasattr(module, "PreviewFeature") and hasattr(module.PreviewFeature, "PROFILE_SHARING_0806"):
        builder_config.set_preview_feature(module.PreviewFeature.PROFILE_SHARING_0806, True)


def _load_timing_cache(trt: Trt, builder_config: Any, path: Path | None) -> Any | None:
    """Gives the builder the timings of earlier builds; a cache of another GPU is left aside."""
    if path is None:
        return None
    if trt.is_rtx:
        raise UsageError(
            f"{trt.title} times no kernels while it builds, so it takes no timing_cache.",
            hint="Use runtime_cache, which keeps the kernels it compiles at run time.",
        )
    stored = path.read_bytes() if path.is_file() else b""
    timing_cache = builder_config.create_timing_cache(stored)
    if not builder_config.set_timing_cache(timing_cache, False):
        timing_cache = builder_config.create_timing_cache(b"")
        builder_config.set_timing_cache(timing_cache, False)
    return timing_cache
