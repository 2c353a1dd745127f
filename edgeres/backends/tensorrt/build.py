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
    choose_tf32,
    create_network,
    is_weakly_typed,
    set_targets,
)
from edgeres.backends.tensorrt.dla import use_dla
from edgeres.backends.tensorrt.flags import set_flags
from edgeres.backends.tensorrt.log import Heard, listening, make_monitor, process_log
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.backends.tensorrt.profile import add_profiles, opt_batches, widest
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
        shapes: Ranges of the inputs with a dynamic size, over all profiles.
        batches: Batch sizes that kernels were chosen for, one for each profile; empty where the
            batch is fixed.
        notes: What edgeres found out in the build.
    """

    plan: bytes
    layer_log: tuple[str, ...]
    warnings: tuple[str, ...]
    shapes: Mapping[str, ShapeRange]
    batches: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


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
    with listening(trt) as heard:
        return _build(trt, onnx, options, shapes, heard, half, shown or str(onnx), progress)


def _build(
    trt: Trt,
    onnx: Path,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
    heard: Heard,
    half: bool,
    shown: str,
    progress: ProgressCallback | None,
) -> BuiltPlan:
    module = trt.module
    dla = options.dla_core is not None
    try:
        builder = module.Builder(process_log(trt))
    except TypeError as error:  # pybind's way to say that the constructor returned nothing
        raise BackendMissingError(
            f"{trt.title} cannot start its builder here "
            f"({heard.reason() if heard.errors else error}).",
            hint="Standard TensorRT needs a GPU to build; flavor=tensorrt_rtx does not.",
        ) from error
    network = create_network(trt, builder, weakly=is_weakly_typed(trt, dla=dla))
    _parse(trt, network, heard, onnx, shown)
    builder_config = builder.create_builder_config()
    builder_config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    allow_graph_precisions(trt, network, builder_config, half=half, dla=dla)
    choose_tf32(trt, builder_config, wanted=options.rest == "tf32")
    set_targets(trt, builder_config, options.compute_capabilities)
    set_flags(trt, builder_config, options)
    _set_options(trt, builder_config, options)
    profiles = add_profiles(builder, network, builder_config, options, shapes)
    notes = []
    if options.dla_core is not None:
        notes.append(use_dla(trt, builder, network, builder_config, options.dla_core))
    timing_cache = _load_timing_cache(trt, builder_config, options.timing_cache)
    monitor = make_monitor(trt, progress)
    if monitor is not None and hasattr(builder_config, "progress_monitor"):
        builder_config.progress_monitor = monitor
    serialized = builder.build_serialized_network(network, builder_config)
    if serialized is None:
        raise _build_error(trt, shown, heard)
    if timing_cache is not None and options.timing_cache is not None:
        write_atomic(options.timing_cache, bytes(timing_cache.serialize()))
    return BuiltPlan(
        bytes(serialized),
        tuple(heard.layer_messages),
        tuple(heard.warnings),
        widest(profiles),
        opt_batches(profiles),
        tuple(notes),
    )


def _parse(trt: Trt, network: Any, heard: Heard, onnx: Path, shown: str) -> None:
    parser = trt.module.OnnxParser(network, process_log(trt))
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    text = str(errors[0]) if errors else heard.reason()
    raise ModelError(
        f"{shown}: {trt.title} does not take the model: {one_line(text)}.",
        hint="Quantize it with `edgeres quantize --target tensorrt`, or see docs/tensorrt.md.",
    )


def _build_error(trt: Trt, shown: str, heard: Heard) -> EdgeResError:
    text = heard.reason()
    hint = "Run again with -v to see all that the builder said."
    if "workspace" in text:
        hint = "Raise the option workspace_mib or leave it out."
    return StageError(f"{shown}: {trt.title} could not build it: {one_line(text)}.", hint=hint)


def _set_options(trt: Trt, builder_config: Any, options: TensorRTOptions) -> None:
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
