"""TensorRT and TensorRT for RTX as one backend.

TensorRT is used where it and a GPU are present. Elsewhere TensorRT for RTX builds ahead of time,
without a GPU: the plan is real and its layers are known (see ``docs/tensorrt.md``), but it can
only run on a machine with a supported GPU. ``Engine.versions["flavor"]`` says which one built it.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends._vendor import kept_options
from edgeres.backends.base import BuildConfig, Engine, LayerInfo, QdqRules, Remarks
from edgeres.backends.sidecar import (
    check_engine,
    read_engine,
    run_config,
    staged,
    write_sidecar,
)
from edgeres.backends.tensorrt.api import (
    FLAVORS,
    Trt,
    check_targets,
    half_pays,
    is_weakly_typed,
    load_trt,
)
from edgeres.backends.tensorrt.compatibility import (
    check_loadable,
    choose_trt,
    gpu_of,
    gpus_here,
    ordinal_of,
    place_of,
    versions_of,
    with_targets,
)
from edgeres.backends.tensorrt.gpus import Gpu, list_gpus
from edgeres.backends.tensorrt.options import TensorRTOptions, parse_options
from edgeres.errors import ArtefactError, BackendMissingError, UsageError
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    from edgeres.backends.tensorrt.audit import Audit
    from edgeres.backends.tensorrt.build import BuiltPlan
    from edgeres.backends.tensorrt.compatibility import Loadable
    from edgeres.backends.tensorrt.form import Form
    from edgeres.backends.tensorrt.graph import Graph
    from edgeres.backends.tensorrt.layers import LayerRecord
    from edgeres.backends.tensorrt.run import TensorRTRunner

# TensorRT averages in INT8 only between two quantizers; MaxPool commutes with them and needs none.
_AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")


class TensorRTBackend:
    """Builds TensorRT plans from Q/DQ ONNX files, audits their layers, and runs them on a GPU."""

    name = "tensorrt"
    engine_suffix = ".plan"
    default_device = "cuda:0"
    precision_options = frozenset({"rest", "io"})
    path_options = frozenset({"timing_cache", "runtime_cache"})
    place_options = frozenset({"flavor", "compute_capabilities"})
    portable_engines = False

    def float_builds(self, device: str) -> Mapping[str, Mapping[str, str]]:
        """FP16."""
        return {"fp16": {"rest": "float16"}}

    def missing(self) -> str | None:
        """Says why nothing can be built here, with the install hint; ``None`` if it can."""
        try:
            choose_trt(None)
        except BackendMissingError as error:
            return str(error)
        return None

    def not_executable(self) -> str | None:
        """Says why a plan cannot run on this machine; ``None`` if it can."""
        try:
            gpus = list_gpus()
            trt = choose_trt(None)
            if trt.is_rtx:
                check_targets(trt, [gpus[0].compute_capability])
        except (BackendMissingError, UsageError) as error:
            return str(error)
        return None

    def versions(self) -> dict[str, str]:
        """Full versions of the TensorRT products that import here."""
        found: dict[str, str] = {}
        for flavor in FLAVORS:
            with contextlib.suppress(BackendMissingError):
                found[flavor] = load_trt(flavor).version
        return found

    def place(self, device: str) -> dict[str, str]:
        """The GPU that was asked for and its driver; empty where a plan is built without one."""
        return place_of(device)

    def devices(self) -> tuple[str, ...]:
        """GPUs as ``cuda:N``, in the driver's order; none without a driver."""
        return tuple(f"cuda:{gpu.ordinal}" for gpu in gpus_here())

    def named_device(self, device: str) -> str:
        """The same: no name leaves the choice open."""
        return device

    def runtime_options(self) -> dict[str, tuple[str, ...]]:
        """None."""
        return {}

    def qdq_rules(self, device: str, options: Mapping[str, str] | None = None) -> QdqRules:
        """The same rules for every GPU: see the placement section of ``docs/tensorrt.md``."""
        return QdqRules(
            name="tensorrt",
            activation_dtype="int8",
            activation_symmetric=True,
            ops=frozenset({"Conv", "Gemm", "MatMul", "Add", *_AVERAGES}),
            weight_granularity="per_channel",
            bias="float",
            residual="skip",
            quantize_before_relu=False,
            least_scale=2.0**-24,  # strongly typed FP16 networks hold scales in FP16
        )

    def check(self, config: BuildConfig) -> None:
        """Checks options and device; shape ranges are checked against the model in the build.

        Raises:
            UsageError: An option, a value or a device that makes no sense.
            BackendMissingError: No TensorRT that can build here, or one without this device.
        """
        options = parse_options(config.options)
        ordinal_of(config.device)
        with_targets(choose_trt(options.flavor), options, config.device)

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Builds a plan, with the list of its layers and the sidecar beside it.

        Args:
            onnx: A Q/DQ or float ONNX file.
            out: Where the plan goes.
            config: ``shapes`` for the profile and the options of
                :class:`edgeres.backends.tensorrt.options.TensorRTOptions`.
            progress: Called with (done, known) steps of the builder.

        Raises:
            BackendMissingError: No TensorRT that can build here, or one without this device.
            ModelError: The lint or TensorRT's parser rejects the model.
            UsageError: An option or a shape range that does not fit.
            StageError: The build failed.
            StorageError: The folder cannot be written.
        """
        from edgeres.backends.tensorrt.audit import Audit, audit_path, audit_to_text
        from edgeres.backends.tensorrt.dla import refuse_for_dla
        from edgeres.backends.tensorrt.flags import sparsity_note
        from edgeres.backends.tensorrt.form import choose_form
        from edgeres.backends.tensorrt.graph import read_graph
        from edgeres.backends.tensorrt.layers import product_nodes
        from edgeres.backends.tensorrt.lint import lint, refuse_fatal
        from edgeres.backends.tensorrt.refit import weights_path
        from edgeres.backends.tensorrt.repair import repair
        from edgeres.backends.tensorrt.subprocess import build_alone

        options = parse_options(config.options)
        ordinal_of(config.device)
        trt = choose_trt(options.flavor)
        options = with_targets(trt, options, config.device)
        gpu = None if trt.is_rtx else gpu_of(config.device)
        repaired = repair(read_graph(onnx), onnx)
        graph = repaired.graph
        if options.rest is None:
            half_by_default = half_pays(trt) and graph.is_quantized
            options = replace(options, rest="float16" if half_by_default else "float32")
        form = choose_form(
            weakly_typed=is_weakly_typed(trt, dla=False), rest=options.rest or "float32"
        )
        if options.io == "float16" and form != "float16":
            here = "the rest is float32" if form == "source" else f"{trt.title} takes float32 alone"
            raise UsageError(
                f"{onnx}: io=float16 needs rest=float16 in the graph; here {here}.",
                hint="Say rest=float16 too, on TensorRT 10 or later, or leave io out.",
            )
        if options.strip_plan and graph.data_files:
            raise UsageError(
                f"{onnx}: strip_plan keeps this file beside the plan, its weights lie in others.",
                hint="Save the model with its weights inside.",
            )
        if options.dla_core is not None:
            refuse_for_dla(trt, graph, onnx)
        findings = lint(graph)
        refuse_fatal(findings, str(onnx))
        source_sha256 = file_sha256(onnx)
        with staged(out) as folder:
            as_is = form == "source" and not repaired.told
            made = None if as_is else folder / f"{form}.onnx"
            with _built_file(graph, onnx, made, form, options.io) as file:
                built = build_alone(
                    trt,
                    file,
                    options,
                    config.shapes,
                    beside=graph.data_files if as_is else (),
                    plan=folder / out.name,
                    half=options.rest == "float16",
                    ordinal=gpu.ordinal if gpu else None,
                    progress=progress,
                )
                if options.strip_plan:
                    shutil.copyfile(file, folder / weights_path(out).name)
            layers = _layers_of(trt, built, options, gpu, graph)
            audit = Audit(
                layers=tuple(layers),
                products=product_nodes(graph.op_types),
                warnings=built.warnings,
                notes=(
                    *repaired.told,
                    *(finding.message for finding in findings),
                    *([sparsity_note(graph)] if options.sparse_weights else ()),
                    *built.notes,
                ),
            )
            beside = audit_path(out)
            (folder / beside.name).write_text(audit_to_text(audit), encoding="utf-8")
        engine = Engine(
            path=out,
            backend=self.name,
            device=f"cuda:{gpu.ordinal}" if gpu else self.default_device,
            source_sha256=source_sha256,
            versions=versions_of(trt, options, gpu, built.batches),
            options=kept_options(config, self.path_options),
            shapes=built.shapes,
        )
        companions = [beside, *([weights_path(out)] if options.strip_plan else ())]
        write_sidecar(engine, companions=companions)
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> TensorRTRunner:
        """Loads a plan for running, after all checks that need no deserialization.

        Raises:
            BackendMissingError: No driver, no GPU that the plan was built for, or no TensorRT of
                the plan's flavor.
            ArtefactError: The plan is damaged, another backend's, or another version's.
            UsageError: An unknown option.
            StageError: TensorRT does not take the plan.
        """
        from edgeres.backends.tensorrt.run import TensorRTRunner

        options = parse_options(run_config(engine, config).options)
        cache = options.runtime_cache
        if cache is not None and cache == Path(cache.name):
            options = replace(options, runtime_cache=engine.path.with_name(cache.name))
        found = check_loadable(engine, config.device, self.name)
        options = replace(options, version_compatible=found.version_compatible)
        return TensorRTRunner(found.trt, _plan_in(engine, found, options), found.gpu, options)

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """The layers of a plan: from the inspector on a GPU that can load it, else as built.

        Raises:
            ArtefactError: The plan or the list beside it is damaged.
        """
        from edgeres.backends.tensorrt.audit import read_audit
        from edgeres.backends.tensorrt.layers import assign_products, to_layer_infos
        from edgeres.backends.tensorrt.load import inspect_plan

        check_engine(engine, self.name)
        audit = read_audit(engine.path)
        try:
            found = check_loadable(engine, engine.device, self.name)
        except (BackendMissingError, ArtefactError):
            # Without that GPU and version, the list that the builder printed is what there is; its
            # hash was just checked.
            return to_layer_infos(audit.layers)
        compatible = found.version_compatible
        options = replace(parse_options(engine.options), version_compatible=compatible)
        plan, ordinal = _plan_in(engine, found, options), found.gpu.ordinal
        records = inspect_plan(found.trt, plan, ordinal, options, audit.products)
        return to_layer_infos(assign_products(records, audit.products))

    def remarks(self, engine: Engine) -> Remarks:
        """The builder's warnings, the lint's notes, and the same build with ``trtexec``.

        Raises:
            ArtefactError: The plan or the list beside it is damaged.
        """
        from edgeres.backends.tensorrt.commands import told_command

        audit = self.audit(engine)
        options = parse_options(engine.options)
        command = told_command(options, engine.shapes, engine.versions)
        return Remarks(audit.warnings, audit.notes, (command,))

    def audit(self, engine: Engine) -> Audit:
        """What the builder and the lint said when the plan was made; needs no GPU.

        Raises:
            ArtefactError: The plan or the list beside it is damaged.
        """
        from edgeres.backends.tensorrt.audit import read_audit

        check_engine(engine, self.name)
        return read_audit(engine.path)


@contextlib.contextmanager
def _built_file(graph: Graph, onnx: Path, made: Path | None, form: Form, io: str) -> Iterator[Path]:
    """The file that TensorRT parses: the given one, or for a moment another form of it."""
    if made is None:
        yield onnx
        return
    from edgeres.backends.tensorrt.form import write_form

    try:
        write_form(graph, form, made, io=io)
        yield made
    finally:
        made.unlink(missing_ok=True)


def _plan_in(engine: Engine, found: Loadable, options: TensorRTOptions) -> bytes:
    """The checked plan of an engine, with its weights where they lie beside it."""
    plan = engine.path.read_bytes()
    if read_engine(engine.path).versions.get("strip_plan") != "true":
        return plan
    from edgeres.backends.tensorrt.refit import weights_path, whole_plan

    weights = weights_path(engine.path)
    return whole_plan(found.trt, plan, weights, found.gpu.ordinal, options)


def _layers_of(
    trt: Trt, built: BuiltPlan, options: TensorRTOptions, gpu: Gpu | None, graph: Graph
) -> list[LayerRecord]:
    """The layers from the build log, or from the inspector where the log has none."""
    from edgeres.backends.tensorrt.layerlist import read_log
    from edgeres.backends.tensorrt.layers import assign_products
    from edgeres.backends.tensorrt.load import inspect_plan

    records = read_log(built.layer_log, graph.op_types)
    if not records and gpu is not None:
        records = inspect_plan(trt, built.plan, gpu.ordinal, options, graph.op_types)
    return assign_products(records, graph.op_types)


BACKEND = TensorRTBackend()
