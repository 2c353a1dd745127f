"""OpenVINO: the engine is an IR, ``.xml`` and ``.bin``, compiled for a device when it is loaded.

FP32 means FP32 here: without ``INFERENCE_PRECISION_HINT`` OpenVINO computes in bfloat16 on CPUs
that have it, and an INT8 model would be compared with something that nobody exported. BF16 is an
arithmetic of its own, with the option ``rest``: a float engine that INT8 has to beat there, and
what the layers of an INT8 engine that stay in float may run in.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeres.backends._packaged import Package, PackagedBackend
from edgeres.backends._vendor import (
    kept_options,
    read_options,
)
from edgeres.backends.base import BuildConfig, Engine, LayerInfo, QdqRules, Remarks
from edgeres.backends.openvino.devices import (
    CPU,
    NOT_RUN_ON_HARDWARE,
    Device,
    find_device,
    has_bfloat16,
    listed,
)
from edgeres.backends.openvino.ir import one_line_of, read_onnx
from edgeres.backends.openvino.layers import profiled_layers
from edgeres.backends.openvino.rules import RULES
from edgeres.backends.openvino.run import OpenVinoRunner, core
from edgeres.backends.sidecar import check_engine, run_config, staged, write_sidecar
from edgeres.errors import ArtefactError, BackendMissingError, ModelError, UsageError
from edgeres.system.environment import is_arm
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.system.user_cache import compiled_folder

_NAME = "openvino"
_OPENVINO = Package("openvino")
_OPTIONS = {
    "batch": ("specialized", "dynamic"),
    "performance_hint": ("latency", "throughput"),
    "pinning": ("default", "true", "false"),
    "snippets": ("default", "false", "true"),
    "rest": ("float32", "bfloat16"),
}
_LEAST_GLIBC = (2, 35)
_CPU_OPTIONS = frozenset({"pinning", "snippets", "rest"})
_BF16 = {"rest": "bfloat16"}


class OpenVino(PackagedBackend):
    """The OpenVINO backend; see :class:`edgeres.backends.base.Backend`."""

    name = _NAME
    engine_suffix = ".xml"
    package = _OPENVINO
    options = _OPTIONS
    place_options = frozenset({"snippets"})
    precision_options = frozenset({"rest"})

    def float_builds(self, device: str) -> Mapping[str, Mapping[str, str]]:
        """BF16 on CPUs that have instructions for it."""
        try:
            return {"bf16": _BF16} if has_bfloat16(core(), self._device(device)) else {}
        except BackendMissingError:
            return {}

    def version(self, module: ModuleType) -> str:
        """Version and build, e.g. ``2026.0.0-20965-c6d6a13a886``."""
        return str(module.get_version())

    def missing(self) -> str | None:
        """As the others', and on Arm whether the system is too old for the wheel."""
        reason = super().missing()
        library, version = platform.libc_ver()
        if reason is None or not is_arm() or library != "glibc":
            return reason
        found = tuple(int(part) for part in version.split(".") if part.isdecimal())
        if found >= _LEAST_GLIBC:
            return reason
        return f"{reason} Its wheel for aarch64 needs glibc 2.35, here is {version}."

    def devices(self) -> tuple[str, ...]:
        """``cpu``, then what else the runtime lists: ``gpu:N``, ``npu``."""
        _OPENVINO.load()
        return tuple(device.ours for device in listed(core()))

    def place(self, device: str) -> dict[str, str]:
        """The device and its driver where it is a GPU or an NPU; nothing for a CPU."""
        if device == "cpu" or self.missing():
            return {}
        try:
            return self._device(device).facts
        except BackendMissingError:
            return {}

    def named_device(self, device: str) -> str:
        """What ``auto`` and ``gpu`` stand for here.

        Raises:
            BackendMissingError: The runtime does not list it.
        """
        return self._device(device).ours

    def _device(self, device: str) -> Device:
        _OPENVINO.load()
        return find_device(core(), device)

    def check_device(self, device: str) -> None:
        """Refuses a device that the runtime does not list.

        Raises:
            BackendMissingError: It does not, or OpenVINO has no such kind of device.
        """
        self._device(device)

    def runtime_options(self) -> dict[str, tuple[str, ...]]:
        """Those of its options that do not change what is computed on this architecture."""
        options = {name: values for name, values in _OPTIONS.items() if name != "rest"}
        options["snippets"] = ("default",) if is_arm() else ("default", "true")
        return options

    def check(self, config: BuildConfig) -> None:
        """As the others', and refuses what gives wrong answers on Arm.

        Raises:
            BackendMissingError: The device is not here.
            UsageError: An option that it does not have or that is wrong here, or a shape range.
        """
        super().check(config)
        device = self._device(config.device)
        for name in sorted(_CPU_OPTIONS & config.options.keys() if device.kind != CPU else ()):
            raise UsageError(
                f"openvino option {name} is the CPU's, the device is {device.ours}.",
                hint="Leave the option out.",
            )
        if config.options.get("rest") == "bfloat16" and not has_bfloat16(core(), device):
            raise UsageError(
                "openvino option rest=bfloat16 needs a CPU with instructions for it, such as "
                "avx512_bf16 or amx_bf16; this one would only imitate them.",
                hint="Leave the option out, or build the engine anew on this CPU.",
            )
        if device.kind == "NPU" and config.options.get("batch") == "dynamic":
            raise UsageError(
                "openvino option batch=dynamic cannot run on npu, which takes fixed shapes only.",
                hint="Leave the option out: each batch size is then compiled on its own.",
            )
        if is_arm() and config.options.get("snippets") == "false":
            raise UsageError(
                "openvino option snippets=false makes INT8 matrix products wrong on Arm.",
                hint="Leave the option out.",
            )

    def qdq_rules(self, device: str = "cpu", options: Mapping[str, str] | None = None) -> QdqRules:
        """Those of :mod:`.rules`, with what was found out about the device; options change nothing.

        Raises:
            BackendMissingError: The runtime or the device is not here.
        """
        where = self._device(device)
        if not where.has_int8:
            raise BackendMissingError(
                f"{where.ours} ({where.full_name}) does not compute in INT8, as OpenVINO says: it "
                f"has {', '.join(sorted(where.capabilities))}.",
                hint="Use --device cpu, or a float model on this device.",
            )
        from edgeres.backends.probe import saturates, wrong_lowest_weight
        from edgeres.backends.probe_products import products_overflow

        saturating = saturates(self, where.ours)
        in_float = saturating or products_overflow(self, "int8", where.ours)
        return replace(
            RULES,
            name=f"openvino-{where.kind.lower()}",
            saturating=saturating,
            products="float" if in_float else RULES.products,
            wrong_lowest_weight=wrong_lowest_weight(self, where.ours),
        )

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Converts an ONNX model to IR, the same bytes for the same model, and compiles it once.

        Args:
            onnx: FP32 or Q/DQ model.
            out: The ``.xml``; weights (in FP32 or INT8, never packed into FP16) go beside it.
            config: Device, threads and the options ``batch`` (``specialized``, ``dynamic``),
                ``performance_hint`` (``latency``, ``throughput``), ``pinning`` (``default``,
                ``true``, ``false``), ``snippets`` (``default``: off on x86, on
                elsewhere, ``false``, ``true``) and ``rest`` (``float32``, ``bfloat16``: what layers
                that are not in INT8 compute in).
            progress: Not called: one step.

        Raises:
            BackendMissingError: The runtime or the device is not here.
            ModelError: The file is missing, or OpenVINO rejects the model.
            StorageError: The engine cannot be written.
            UsageError: An unknown option.
        """
        self.check(config)
        runtime = _OPENVINO.load()
        device = self._device(config.device)
        settings, specialized = _settings(config, device)
        if not onnx.is_file():
            raise ModelError(f"{onnx}: no such model file.", hint="Check the path.")
        source_sha256 = file_sha256(onnx)
        model = read_onnx(onnx, source_sha256)
        try:
            OpenVinoRunner(model, settings, device=device, specialized=specialized).close()
        except RuntimeError as error:
            raise ModelError(
                f"{onnx}: OpenVINO cannot compile the model: {one_line_of(error)}.",
                hint="Import it with edgeres first, build it for onnxruntime, or see what the "
                "message names.",
            ) from error
        with staged(out) as folder:
            runtime.save_model(model, folder / out.name, compress_to_fp16=False)
        options = kept_options(config)
        versions = self.versions() | device.facts
        engine = Engine(out, _NAME, device.ours, source_sha256, versions, options)
        write_sidecar(engine, companions=[out.with_suffix(".bin")])
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> OpenVinoRunner:
        """Compiles an engine for a device.

        Raises:
            ArtefactError: A file is damaged, or no engine of this backend.
            BackendMissingError: The runtime or the device is not here.
            UsageError: An unknown option.
        """
        return self._load(engine, config, {})

    def remarks(self, engine: Engine) -> Remarks:
        """For a GPU or an NPU, that nobody tried one."""
        if engine.device == "cpu":
            return Remarks()
        return Remarks(notes=(f"{engine.device}: {NOT_RUN_ON_HARDWARE}.",))

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """Lists the primitives of the compiled model with times on one thread, fed with zeros.

        Raises:
            ArtefactError: A file is damaged, or no engine of this backend.
            BackendMissingError: The runtime is not here.
            ModelError: An input has a dynamic size apart from the batch.
        """
        config = BuildConfig(device=engine.device, threads=1, tuned=False)
        with self._load(engine, config, {"PERF_COUNT": True}) as runner:
            return profiled_layers(runner.model, runner)

    def _load(self, engine: Engine, config: BuildConfig, further: dict[str, Any]) -> OpenVinoRunner:
        given = config.options
        config = run_config(engine, config)
        if is_arm() and "snippets" not in given:  # what an engine from x86 was built with is wrong
            options = {name: value for name, value in config.options.items() if name != "snippets"}
            config = replace(config, options=options)
        self.check(config)
        runtime = _OPENVINO.load()
        device = self._device(config.device)
        settings, specialized = _settings(config, device)
        check_engine(engine, _NAME)
        try:
            model = core().read_model(engine.path)
            return OpenVinoRunner(model, settings | further, device=device, specialized=specialized)
        except RuntimeError as error:
            here = self.versions()
            built_so = all(engine.versions.get(name) == here[name] for name in here)
            raise ArtefactError(
                f"{engine.path}: OpenVINO {runtime.get_version()} cannot load it: "
                f"{one_line_of(error)}.",
                hint="This version built it, on another machine or for another device: build its "
                "ONNX file for onnxruntime here."
                if built_so
                else "Build it again with this version.",
            ) from error


@cache
def _has_snippets_switch() -> bool:
    """Whether this version lets snippets be turned off."""
    try:
        core().set_property("CPU", {"SNIPPETS_MODE": "ENABLE"})
    except RuntimeError:
        return False
    return True


def _settings(config: BuildConfig, device: Device) -> tuple[dict[str, Any], bool]:
    """OpenVINO's own properties, and whether to compile for each batch size.

    An engine from x86 may have been built with ``snippets=false``, which Arm passes over.
    """
    chosen = read_options(config.options, _OPTIONS, backend=_NAME)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": chosen["performance_hint"].upper(),
        **device.settings(),
    }
    if device.kind != CPU:  # the others are the CPU's
        # Compiling for a GPU or an NPU takes seconds to minutes, for a CPU less than reading it.
        kept = compiled_folder(_NAME, {"version": _OPENVINO.load().get_version(), **device.facts})
        if kept is not None:
            settings["CACHE_DIR"] = str(kept)
        return settings, chosen["batch"] == "specialized"
    if config.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = config.threads
    if chosen["rest"] == "bfloat16":
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    if chosen["pinning"] != "default":
        settings["ENABLE_CPU_PINNING"] = chosen["pinning"] == "true"
    if chosen["snippets"] != "true" and not is_arm() and _has_snippets_switch():
        # Snippets take a residual Add (with its Q) away from the convolution that could do it in
        # its accumulator, which makes a ResNet on x86 measurably slower, most of all at larger
        # batches. On Arm an INT8 matrix product without them has wrong sums.
        settings["SNIPPETS_MODE"] = "DISABLE"
    return settings, chosen["batch"] == "specialized"


BACKEND = OpenVino()
