"""Which part of ONNX Runtime computes a session's nodes, and whether it is the one asked for.

ONNX Runtime gives nodes that a provider does not take to the CPU, and whole sessions too, with no
more than a line on stderr. Here a session that was asked to run on a GPU is taken only if its
providers and every single node say so.

NVIDIA's two TensorRT providers are options of this backend: ``TensorrtExecutionProvider``, part of
onnxruntime-gpu, and the plugin ``NvTensorRTRTXExecutionProvider``. Neither has run yet: without a
GPU only their absence, the plugin's refusal and the fall-back to the CPU could be verified. Loading
a plugin, choosing its device and reading where the nodes are was tried with OpenVINO's plugin.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from edgeres.errors import BackendMissingError, UsageError, one_line

CPU = "CPUExecutionProvider"
GPU_PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt_rtx": "NvTensorRTRTXExecutionProvider",
}
OPTIONS = {"provider": tuple(GPU_PROVIDERS), "cpu_fallback": ("refuse", "allow")}
_PLUGINS = {"tensorrt_rtx": "onnxruntime_ep_nv_tensorrt_rtx"}
_RECORD = "session.record_ep_graph_assignment_info"
_TOLD = 3


@dataclass(frozen=True)
class ExecutionProvider:
    """Where a session is to run.

    Attributes:
        provider: Name of the execution provider that must compute it.
        index: Number of the GPU; 0 for the CPU.
        plugin: Module of a provider that comes as a package of its own, else empty.
    """

    provider: str = CPU
    index: int = 0
    plugin: str = ""

    @property
    def on_cpu(self) -> bool:
        """True where nothing can fall back."""
        return self.provider == CPU


def find_provider(runtime: Any, device: str, provider: str) -> ExecutionProvider:
    """The provider behind a device, if it can be had here.

    Args:
        runtime: The imported onnxruntime.
        device: ``cpu`` or ``cuda:N``.
        provider: Value of the option ``provider``; it speaks of GPUs only.

    Raises:
        BackendMissingError: This onnxruntime has no such provider.
        UsageError: A TensorRT provider on the CPU.
    """
    if device == "cpu":
        if provider != "cuda":
            raise UsageError(
                f"onnxruntime option provider={provider} runs on a GPU, the device is cpu.",
                hint="Say --device cuda:0, or leave the option out.",
            )
        return ExecutionProvider()
    kind, _, index = device.partition(":")
    name = GPU_PROVIDERS[provider]
    available = runtime.get_available_providers()
    plugin = _PLUGINS.get(provider, "")
    if kind != "cuda" or not index.isdecimal() or (name not in available and not plugin):
        raise BackendMissingError(
            f"ONNX Runtime cannot use the device {device!r} with {name} here; it has "
            f"{', '.join(available)}.",
            hint="Use --device cpu, or install onnxruntime-gpu for cuda:N.",
        )
    if plugin:
        _register(runtime, name, plugin)
    return ExecutionProvider(name, int(index), plugin)


def add_provider(
    runtime: Any, settings: Any, place: ExecutionProvider, *, quantized: bool
) -> list[Any] | None:
    """Tells a session's settings where to run.

    Args:
        runtime: The imported onnxruntime.
        settings: ``SessionOptions``, changed in place.
        place: Where to run.
        quantized: The model has Q/DQ, which ``TensorrtExecutionProvider`` must be told of.

    Returns:
        The ``providers`` argument of the session; ``None`` where the settings carry them.

    Raises:
        BackendMissingError: The plugin sees no such GPU.
    """
    if place.on_cpu:
        return [CPU]
    settings.add_session_config_entry(_RECORD, "1")
    if not place.plugin:
        options = {"device_id": str(place.index)}
        if place.provider == GPU_PROVIDERS["cuda"]:
            options["use_tf32"] = "0"  # float32 is float32; by itself it keeps 10 bits of a factor
        if place.provider == GPU_PROVIDERS["tensorrt"] and quantized:
            options["trt_int8_enable"] = "1"
        return [(place.provider, options), CPU]
    devices = [found for found in runtime.get_ep_devices() if found.ep_name == place.provider]
    if place.index >= len(devices):
        raise BackendMissingError(
            f"{place.provider} sees {len(devices)} GPU, there is no cuda:{place.index} for it.",
            hint="It needs an RTX GPU of compute capability 8.0, 8.6, 8.9, 12.0 or later.",
        )
    settings.add_provider_for_devices([devices[place.index]], {})
    return None


def refuse_fallback(session: Any, place: ExecutionProvider, *, allowed: bool) -> None:
    """Compares where a session's nodes are with where they should be.

    Args:
        session: A new session, made with :func:`add_provider`.
        place: Where it was to run.
        allowed: Nodes on the CPU are taken; the whole session on the CPU never is.

    Raises:
        BackendMissingError: The session or some of its nodes fell back.
    """
    if place.on_cpu:
        return
    # At run time too it would rather print a line and go on elsewhere than fail.
    session.disable_fallback()
    providers = session.get_providers()
    if place.provider not in providers:
        raise BackendMissingError(
            f"ONNX Runtime was to run on {place.provider} but fell back to {', '.join(providers)}.",
            hint="Check the GPU driver and that the onnxruntime package is the one for GPUs.",
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise BackendMissingError(
            "this onnxruntime does not tell which nodes run on the GPU.",
            hint="Install a later one: pip install -U onnxruntime-gpu.",
        )
    placed: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        placed.setdefault(part.ep_name, []).extend(node.name for node in part.get_nodes())
    total = sum(len(names) for names in placed.values())
    away = placed.get(CPU, [])
    if place.provider not in placed or (away and not allowed):
        told = ", ".join(away[:_TOLD]) + (", ..." if len(away) > _TOLD else "")
        raise BackendMissingError(
            f"{len(away)} of {total} nodes would run on the CPU, not on {place.provider}: {told}.",
            hint="With the option cpu_fallback=allow some may; `edgeres inspect` marks them."
            if place.provider in placed
            else "That provider takes nothing of this model.",
        )


def _register(runtime: Any, name: str, plugin: str) -> None:
    """Loads a provider that comes as a package of its own; a second time it is there already."""
    install = f"pip install {plugin.replace('_', '-')}-cu13"
    if any(found.ep_name == name for found in runtime.get_ep_devices()):
        return
    try:
        module = importlib.import_module(plugin)
    except ImportError as error:
        raise BackendMissingError(
            f"ONNX Runtime has no {name} here: {one_line(error)}.", hint=f"Install it: {install}."
        ) from error
    try:
        runtime.register_execution_provider_library(name, module.get_library_path())
    except Exception as error:  # its exceptions have no base but Exception
        raise BackendMissingError(
            f"{name} does not load: {one_line(error)}.",
            hint="It needs an NVIDIA GPU with its driver (libcuda).",
        ) from error
