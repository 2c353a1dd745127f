"""OpenVINO on the CPU: the engine is an IR, ``.xml`` and ``.bin``, compiled when it is loaded.

FP32 means FP32 here: without ``INFERENCE_PRECISION_HINT`` OpenVINO computes in bfloat16 on CPUs
that have it, and an INT8 model would be compared with something that nobody exported.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgeres.backends._onnx_origin import SourceNode, read_nodes
from edgeres.backends._openvino_layers import AUTO_NAME, profiled_layers
from edgeres.backends._runner import CheckedRunner, zero_feeds
from edgeres.backends._vendor import import_runtime, one_line, read_options
from edgeres.backends.base import (
    Array,
    BuildConfig,
    Engine,
    LayerInfo,
    QdqRules,
    TensorSpec,
)
from edgeres.backends.sidecar import check_engine, staged, write_sidecar
from edgeres.errors import ArtefactError, BackendMissingError, ModelError, StageError
from edgeres.files import file_sha256

_NAME = "openvino"
_OPTIONS = {
    "batch": ("specialized", "dynamic"),
    "performance_hint": ("latency", "throughput"),
    "pinning": ("default", "true", "false"),
    "snippets": ("false", "true"),
}
_KEPT_BATCHES = 4
_DTYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}


class OpenVinoRunner(CheckedRunner):
    """A model compiled for the CPU.

    A dynamic batch is compiled once for each batch size that comes, the last four of which are
    kept: kernels for a fixed size are up to a fifth faster on small networks.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any], *, specialized: bool) -> None:
        super().__init__(_specs(model.inputs), _specs(model.outputs))
        self.model = model
        self._settings = dict(settings)
        self._by_shapes = specialized and all(
            spec.shape and spec.shape[0] is None and None not in spec.shape[1:]
            for spec in self.inputs
        )
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        # Compiled at once, so that a model that does not compile fails on loading.
        batches = [tuple(1 if size is None else size for size in s.shape) for s in self.inputs]
        self._request(tuple(batches) if self._by_shapes else ())

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        shapes = tuple(feeds[spec.name].shape for spec in self.inputs) if self._by_shapes else ()
        try:
            request = self._request(shapes)
            request.infer([feeds[spec.name] for spec in self.inputs], share_inputs=True)
            return {
                spec.name: request.get_output_tensor(index).data.copy()
                for index, spec in enumerate(self.outputs)
            }
        except RuntimeError as error:
            sizes = ", ".join(f"{name} {feed.shape}" for name, feed in feeds.items())
            raise StageError(
                f"OpenVINO failed on {sizes}: {one_line(error)}.",
                hint="A smaller batch needs less memory.",
            ) from error

    @property
    def compiled(self) -> Any:
        """The compiled model of the last request (``openvino.CompiledModel``)."""
        return next(reversed(self._requests.values())).get_compiled_model()

    def profile(self) -> list[Any]:
        """Runs once on zeros (batch 1); gives OpenVINO's ``ProfilingInfo`` of each primitive.

        Raises:
            ModelError: An input has a dynamic size apart from the batch.
        """
        self.infer(zero_feeds(self.inputs))
        records: list[Any] = next(reversed(self._requests.values())).get_profiling_info()
        return records

    def _request(self, shapes: tuple[tuple[int, ...], ...]) -> Any:
        """An inference request for these input shapes, compiled on first use."""
        if shapes in self._requests:
            self._requests.move_to_end(shapes)
            return self._requests[shapes]
        model = self.model
        if shapes:
            model = model.clone()
            model.reshape(dict(enumerate(shapes)))
        compiled = _core().compile_model(model, "CPU", self._settings)
        self._requests[shapes] = compiled.create_infer_request()
        if len(self._requests) > _KEPT_BATCHES:
            self._requests.popitem(last=False)
        return self._requests[shapes]

    def _close(self) -> None:
        self._requests.clear()
        self.model = None


class OpenVino:
    """The OpenVINO backend; see :class:`edgeres.backends.base.Backend`."""

    name = _NAME
    engine_suffix = ".xml"
    default_device = "cpu"

    def missing(self) -> str | None:
        """Says why OpenVINO cannot be used here; ``None`` if it can."""
        try:
            _runtime()
        except BackendMissingError as error:
            return str(error)
        return None

    def not_executable(self) -> str | None:
        """Says why an engine cannot run here: for this backend the same as :meth:`missing`."""
        return self.missing()

    def versions(self) -> dict[str, str]:
        """Version and build of the openvino package; empty where it is not here."""
        return {} if self.missing() else {_NAME: str(_runtime().get_version())}

    def devices(self) -> tuple[str, ...]:
        """``cpu``."""
        _runtime()
        return ("cpu",)

    def qdq_rules(self, device: str = "cpu") -> QdqRules:
        """The rules under which the CPU plugin fuses a ResNet into INT8 kernels.

        At a residual Add only the skip input takes Q/DQ: the convolution on the main path adds it
        in its own accumulator and rounds once (Q/DQ on both inputs is no quicker and loses a bit
        of accuracy). Pooling and mean run in INT8 as well, so their inputs take Q/DQ; the bias
        stays float.

        Raises:
            BackendMissingError: The runtime or the device is not here.
        """
        _check_device(device)
        _runtime()
        from edgeres.backends.probe import saturates

        return QdqRules(
            name="openvino-cpu",
            activation_dtype="uint8",
            activation_symmetric=False,
            ops=frozenset(
                {
                    "Conv",
                    "Gemm",
                    "MatMul",
                    "Add",
                    "MaxPool",
                    "AveragePool",
                    "GlobalAveragePool",
                    "ReduceMean",
                }
            ),
            bias="float",
            residual="skip",
            saturating=saturates(self, device),
        )

    def build(self, onnx: Path, out: Path, config: BuildConfig) -> Engine:
        """Converts an ONNX model to IR, the same bytes for the same model, and compiles it once.

        Args:
            onnx: FP32 or Q/DQ model.
            out: The ``.xml``; weights (in FP32 or INT8, never packed into FP16) go beside it.
            config: Device, threads and the options ``batch`` (``specialized``, ``dynamic``),
                ``performance_hint`` (``latency``, ``throughput``), ``pinning`` (``default``,
                ``true``, ``false``) and ``snippets`` (``false``, ``true``).

        Raises:
            BackendMissingError: The runtime or the device is not here.
            ModelError: The file is missing, or OpenVINO rejects the model.
            StorageError: The engine cannot be written.
            UsageError: An unknown option.
        """
        _check_device(config.device)
        runtime = _runtime()
        settings, specialized = _settings(config)
        if not onnx.is_file():
            raise ModelError(f"{onnx}: no such model file.", hint="Check the path.")
        source_sha256 = file_sha256(onnx)
        weights = out.with_suffix(".bin")
        try:
            model = _core().read_model(onnx)
            _name_operations(model, read_nodes(onnx))
            model.set_rt_info(source_sha256, ["edgeres", "source_sha256"])
            OpenVinoRunner(model, settings, specialized=specialized).close()
        except RuntimeError as error:
            raise ModelError(
                f"{onnx}: OpenVINO rejects the model: {one_line(error)}.",
                hint="Import it with edgeres first, or see what the message names.",
            ) from error
        with staged(out) as folder:
            runtime.save_model(model, folder / out.name, compress_to_fp16=False)
        engine = Engine(out, _NAME, config.device, source_sha256, self.versions())
        write_sidecar(engine, companions=[weights])
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> OpenVinoRunner:
        """Compiles an engine for this CPU.

        Raises:
            ArtefactError: A file is damaged, or no engine of this backend.
            BackendMissingError: The runtime or the device is not here.
            UsageError: An unknown option.
        """
        return self._load(engine, config, {})

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """Lists the primitives of the compiled model with times of a few inferences on zeros.

        Raises:
            ArtefactError: A file is damaged, or no engine of this backend.
            BackendMissingError: The runtime is not here.
            ModelError: An input has a dynamic size apart from the batch.
        """
        config = BuildConfig(device=engine.device)
        with self._load(engine, config, {"PERF_COUNT": True}) as runner:
            return profiled_layers(runner.model, runner)

    def _load(self, engine: Engine, config: BuildConfig, further: dict[str, Any]) -> OpenVinoRunner:
        _check_device(config.device)
        runtime = _runtime()
        settings, specialized = _settings(config)
        check_engine(engine, _NAME)
        try:
            model = _core().read_model(engine.path)
            return OpenVinoRunner(model, settings | further, specialized=specialized)
        except RuntimeError as error:
            raise ArtefactError(
                f"{engine.path}: OpenVINO {runtime.get_version()} cannot load it: "
                f"{one_line(error)}.",
                hint="Build it again with this version.",
            ) from error


def _runtime() -> Any:
    return import_runtime("openvino", extra="openvino")


def _check_device(device: str) -> None:
    if device != "cpu":
        raise BackendMissingError(
            f"the openvino backend runs on cpu, not on {device!r}.", hint="Use --device cpu."
        )


@cache
def _core() -> Any:
    """OpenVINO's entry, made once: it looks for plugins and devices."""
    return _runtime().Core()


@cache
def _has_snippets_switch() -> bool:
    """Whether this version lets snippets be turned off."""
    try:
        _core().set_property("CPU", {"SNIPPETS_MODE": "ENABLE"})
    except RuntimeError:
        return False
    return True


def _settings(config: BuildConfig) -> tuple[dict[str, Any], bool]:
    """OpenVINO's own properties, and whether to compile for each batch size."""
    chosen = read_options(config.options, _OPTIONS, backend=_NAME)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": chosen["performance_hint"].upper(),
        "INFERENCE_PRECISION_HINT": "f32",
        # Would quantize activations of float layers on its own, by the group.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    if config.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = config.threads
    if chosen["pinning"] != "default":
        settings["ENABLE_CPU_PINNING"] = chosen["pinning"] == "true"
    if chosen["snippets"] == "false" and _has_snippets_switch():
        # Snippets take a residual Add (with its Q) away from the convolution that could do it in
        # its accumulator: 3 to 10 % of the latency of a ResNet-18 or ResNet-20 at batch 16.
        settings["SNIPPETS_MODE"] = "DISABLE"
    return settings, chosen["batch"] == "specialized"


def _name_operations(model: Any, nodes: tuple[SourceNode, ...]) -> None:
    """Gives operations names that come from the ONNX file alone.

    OpenVINO names what it adds by a counter of the process, so that two conversions of one file
    differ; and some nodes (a Gemm) by their output tensor.
    """
    names = {node.name for node in nodes}
    by_tensor = {tensor: node.name for node in nodes for tensor in node.outputs}
    counts: dict[str, int] = {}
    for operation in model.get_ordered_ops():
        kind, name = operation.get_type_name(), operation.get_friendly_name()
        if name == operation.get_name() and re.fullmatch(rf"{re.escape(kind)}_\d+", name):
            counts[kind] = counts.get(kind, 0) + 1
            operation.set_friendly_name(f"{AUTO_NAME}{kind}_{counts[kind]}")
        elif name not in names and name in by_tensor and kind not in ("Parameter", "Result"):
            operation.set_friendly_name(by_tensor[name])
    model.set_friendly_name("edgeres")


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for port in ports:
        shape = tuple(
            None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()
        )
        kind = port.get_element_type().get_type_name()
        specs.append(TensorSpec(min(port.get_names()), shape, _DTYPES.get(kind, kind)))
    return tuple(specs)


BACKEND = OpenVino()
