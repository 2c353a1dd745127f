"""ONNX Runtime: the engine is the ONNX file itself, optimized anew whenever it is loaded.

All session settings that change arithmetic or speed are set here and nowhere else. A session that
quietly fell back to another execution provider is an error, not a slow success.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeres.backends._packaged import Package, PackagedBackend
from edgeres.backends._runner import CheckedRunner
from edgeres.backends._vendor import (
    kept_options,
    read_options,
    refuse_shapes,
)
from edgeres.backends.base import Array, BuildConfig, Engine, LayerInfo, QdqRules
from edgeres.backends.onnxruntime.provider_table import PROVIDERS
from edgeres.backends.onnxruntime.providers import (
    OPTIONS,
    ExecutionProvider,
    add_provider,
    find_provider,
    fix_shapes,
    named_provider,
    refuse_fallback,
)
from edgeres.backends.onnxruntime.rules import cpu_rules, provider_rules
from edgeres.backends.sidecar import check_engine, run_config, staged, write_sidecar
from edgeres.errors import ArtefactError, BackendMissingError, ModelError, StageError, one_line
from edgeres.graph.summary import TensorSpec
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.system.temporary import temporary_folder

_NAME = "onnxruntime"
_RUNTIME = Package("onnxruntime")
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}
_OPTIONS = {"graph_optimization": tuple(_LEVELS), "spinning": ("true", "false"), **OPTIONS}
_QUIET = 4  # errors come as exceptions; the native log would only repeat them on stderr
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class OnnxRuntimeRunner(CheckedRunner):
    """A session that is loaded and ready."""

    def __init__(self, session: Any) -> None:
        super().__init__(_specs(session.get_inputs()), _specs(session.get_outputs()))
        self._session = session
        self._names = [spec.name for spec in self.outputs]

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            values = self._session.run(self._names, dict(feeds))
        except Exception as error:  # its exceptions have no base but Exception
            raise StageError(
                f"ONNX Runtime failed on {_shapes(feeds)}: {one_line(error)}.",
                hint="A smaller batch needs less memory.",
            ) from error
        return dict(zip(self._names, values, strict=True))

    def _close(self) -> None:
        self._session = None

    def end_profile(self) -> Path:
        """Stops the profiler of a session that was made with one; gives the profile's path."""
        return Path(self._session.end_profiling())


class OnnxRuntime(PackagedBackend):
    """The ONNX Runtime backend; see :class:`edgeres.backends.base.Backend`."""

    name = _NAME
    engine_suffix = ".onnx"
    package = _RUNTIME

    def devices(self) -> tuple[str, ...]:
        """``cpu``, where INT8 runs, and ``cuda:0`` where the package has that provider."""
        providers = _runtime().get_available_providers()
        return ("cpu", "cuda:0") if PROVIDERS["cuda"].name in providers else ("cpu",)

    def runtime_options(self) -> dict[str, tuple[str, ...]]:
        """Spinning threads, and graph optimization with and without changed layouts."""
        return {"spinning": ("true", "false"), "graph_optimization": ("all", "extended")}

    def qdq_rules(self, device: str = "cpu", options: Mapping[str, str] | None = None) -> QdqRules:
        """The rules of the provider that the options name, by default the CPU's own.

        Those of another one are as :mod:`.rules` says, and need not run here: a file for a
        Snapdragon is made elsewhere. Where it does run, it is asked, as the CPU is.

        Raises:
            BackendMissingError: The runtime is not here, or no provider has INT8 on the device.
            UsageError: A provider that does not serve the device.
        """
        from edgeres.backends.probe import saturates, wrong_lowest_weight
        from edgeres.backends.probe_products import products_overflow

        label, provider = named_provider(device, (options or {}).get("provider", "default"))
        if provider is None:
            _runtime()
            own = cpu_rules()
            overflow = products_overflow(self, own.activation_dtype, device)
            return replace(
                own,
                products="float" if overflow else own.products,
                saturating=saturates(self, device),
                wrong_lowest_weight=wrong_lowest_weight(self, device),
            )
        rules = provider_rules(label, provider, device)
        if rules is None:
            raise BackendMissingError(
                f"ONNX Runtime has no INT8 rules for {device} by its provider {label}: it computes "
                "Q/DQ in float or takes none.",
                hint="Use the tensorrt backend for INT8 on an NVIDIA GPU, a float model elsewhere.",
            )
        chosen = (("provider", label), ("cpu_fallback", "allow"))
        try:
            find_provider(_runtime(), device, label)
        except BackendMissingError:  # nothing to ask; sums of other processors than CPUs are int32
            return replace(rules, saturating=provider.qdq == "openvino" and device == "cpu")
        if rules.activation_dtype == "int8":  # no two products with -127 to 127 leave an int16
            return rules
        return replace(
            rules,
            saturating=saturates(self, device, chosen),
            wrong_lowest_weight=wrong_lowest_weight(self, device, chosen),
        )

    def check(self, config: BuildConfig) -> None:
        """Checks device and options; there are no shape ranges.

        Raises:
            BackendMissingError: The runtime, or what computes on that device, is not here.
            UsageError: An option that it does not have, or a shape range.
        """
        refuse_shapes(config, backend=_NAME)
        _place(config)

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Opens a session on the model to prove that it loads, and stores the model as engine.

        Args:
            onnx: FP32 or Q/DQ model in one file.
            out: Where the engine goes; its sidecar goes beside it.
            config: Device, threads and the options ``graph_optimization`` (``all``, ``extended``,
                ``basic``, ``disabled``), ``spinning`` (``true``, ``false``), ``provider`` (a name
                of :mod:`.provider_table`) and ``cpu_fallback`` (``refuse``, ``allow``).
            progress: Not called: one step.

        Raises:
            BackendMissingError: The runtime or the device is not here.
            ModelError: The file is missing, or ONNX Runtime rejects the model.
            StorageError: The engine cannot be written.
            UsageError: An unknown option.
        """
        self.check(config)
        if not onnx.is_file():
            raise ModelError(f"{onnx}: no such model file.", hint="Check the path.")
        with staged(out) as folder:
            copy = folder / out.name
            shutil.copyfile(onnx, copy)
            try:
                _open(copy, config)
            except _SessionError as error:
                raise ModelError(
                    f"{onnx}: ONNX Runtime rejects the model: {one_line(error)}.",
                    hint="Import it with edgeres first, or see what the message names.",
                ) from error
            source_sha256 = file_sha256(copy)
        options = kept_options(config)
        engine = Engine(out, _NAME, config.device, source_sha256, self.versions(), options)
        write_sidecar(engine)
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> OnnxRuntimeRunner:
        """Opens a session on an engine.

        Raises:
            ArtefactError: The file is damaged, or no engine of this backend.
            BackendMissingError: The runtime or the device is not here, or the session fell back
                to another execution provider.
            UsageError: An unknown option.
        """
        config = run_config(engine, config)
        self.check(config)
        check_engine(engine, _NAME)
        with _loading(engine):
            return OnnxRuntimeRunner(_open(engine.path, config))

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """Lists the kernels that ran, from a profile of one thread fed with zeros (batch 1).

        Raises:
            ArtefactError: The file is damaged, or no engine of this backend.
            BackendMissingError: The runtime is not here.
            ModelError: An input has a dynamic size apart from the batch.
        """
        from edgeres.backends.onnxruntime.layers import profiled_layers

        _runtime()
        check_engine(engine, _NAME)
        plain = BuildConfig(device=engine.device, threads=1, tuned=False)
        config = run_config(engine, plain)
        with temporary_folder() as folder, _loading(engine):
            session = _open(engine.path, config, profile=folder / "profile")
            with OnnxRuntimeRunner(session) as runner:
                return profiled_layers(engine.path, runner, _place(config).provider)


class _SessionError(Exception):
    """ONNX Runtime could not make a session of a file."""


@contextmanager
def _loading(engine: Engine) -> Iterator[None]:
    try:
        yield
    except _SessionError as error:
        raise ArtefactError(
            f"{engine.path}: ONNX Runtime {_runtime().__version__} cannot load it: "
            f"{one_line(error)}.",
            hint="Build it again with this version.",
        ) from error


def _runtime() -> Any:
    return _RUNTIME.load()


def _place(config: BuildConfig) -> ExecutionProvider:
    chosen = read_options(config.options, _OPTIONS, backend=_NAME)
    return find_provider(_runtime(), config.device, chosen["provider"])


def _open(path: Path, config: BuildConfig, *, profile: Path | None = None) -> Any:
    """Makes a session on exactly the device that was asked for."""
    runtime = _runtime()
    chosen = read_options(config.options, _OPTIONS, backend=_NAME)
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = getattr(
        runtime.GraphOptimizationLevel, _LEVELS[chosen["graph_optimization"]]
    )
    settings.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    settings.inter_op_num_threads = 1
    settings.intra_op_num_threads = config.threads or 0
    settings.use_deterministic_compute = True
    settings.log_severity_level = _QUIET
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if chosen["spinning"] == "true" else "0"
    )
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    place = _place(config)
    providers = add_provider(runtime, settings, place, quantized=_is_quantized(path, place))
    fix_shapes(settings, place, _named_sizes(path, place))
    try:
        # Without enable_fallback=False it would print a line and make a session on the CPU.
        session = runtime.InferenceSession(
            str(path), settings, providers=providers, enable_fallback=False
        )
    except Exception as error:  # its exceptions have no base but Exception
        text = re.sub(
            r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", str(error)
        )
        raise _SessionError(text) from error
    refuse_fallback(session, place, allowed=chosen["cpu_fallback"] == "allow")
    return session


def _is_quantized(path: Path, place: ExecutionProvider) -> bool:
    if place.on_cpu:
        return False  # nobody asks; the file need not be read
    from edgeres.backends._onnx_origin import read_nodes

    return any(node.op == "QuantizeLinear" for node in read_nodes(path))


def _named_sizes(path: Path, place: ExecutionProvider) -> list[str]:
    """Names of the free sizes of a model's inputs."""
    if place.on_cpu:
        return []
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    shapes = [value.type.tensor_type.shape.dim for value in graph.input]
    return list(dict.fromkeys(size.dim_param for dims in shapes for size in dims if size.dim_param))


def _specs(arguments: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            argument.name,
            tuple(size if isinstance(size, int) else None for size in argument.shape),
            _DTYPES.get(argument.type, argument.type),
        )
        for argument in arguments
    )


def _shapes(feeds: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {feed.shape}" for name, feed in feeds.items())


BACKEND = OnnxRuntime()
