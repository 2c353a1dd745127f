"""Which part of ONNX Runtime computes a session's nodes, and whether it is the one asked for.

ONNX Runtime gives nodes that a provider does not take to the CPU, and whole sessions too, with no
more than a line on stderr. Here a session that was asked for another provider than the CPU's is
taken only if its providers and every single node say so. Which providers there are says
:mod:`.provider_table`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeres.backends.onnxruntime.provider_table import CPU, DEFAULTS, PROVIDERS, Provider
from edgeres.errors import BackendMissingError, UsageError, one_line

OPTIONS = {"provider": ("default", *PROVIDERS), "cpu_fallback": ("refuse", "allow")}
_DEVICE = re.compile(r"(cpu|npu|cuda(?=:)|gpu)(?::(\d+))?")
_RECORD = "session.record_ep_graph_assignment_info"
_TOLD = 3


@dataclass(frozen=True)
class ExecutionProvider:
    """Where a session is to run.

    Attributes:
        kind: The provider's row of the table; ``None`` for ONNX Runtime's own on the CPU.
        device: Kind of the device: ``cpu``, ``cuda``, ``gpu`` or ``npu``.
        index: Its number; 0 where there is one.
        is_plugin: The provider comes from its plugin, not from the package of ONNX Runtime.
    """

    kind: Provider | None = None
    device: str = "cpu"
    index: int = 0
    is_plugin: bool = False

    @property
    def provider(self) -> str:
        """Name of the execution provider that must compute it."""
        return CPU if self.kind is None else self.kind.name

    @property
    def on_cpu(self) -> bool:
        """True where nothing can fall back: it is ONNX Runtime's own provider."""
        return self.kind is None

    @property
    def choice(self) -> Mapping[str, str]:
        """The provider's options that choose this device."""
        chosen = {} if self.kind is None else self.kind.devices[self.device]
        return {name: value.replace("{index}", str(self.index)) for name, value in chosen.items()}


def named_provider(device: str, provider: str) -> tuple[str, Provider | None]:
    """The provider behind a device, whether or not it is here.

    Args:
        device: ``cpu``, ``cuda:N``, ``gpu``, ``gpu:N`` or ``npu``.
        provider: Value of the option ``provider``.

    Returns:
        Its name as an option, and its row of the table; ``None`` for ONNX Runtime's own on the CPU.

    Raises:
        BackendMissingError: No such device, or none of several providers is named.
        UsageError: A provider that is none, or that does not serve the device.
    """
    where, _ = _parsed(device)
    if provider == "default":
        if where == "cpu":
            return provider, None
        provider = DEFAULTS.get(where, "")
        if not provider:
            raise BackendMissingError(
                f"ONNX Runtime has several providers for {where}, and none is named.",
                hint=f"Build the engine with --option provider=NAME: {', '.join(_serving(where))}.",
            )
    if provider not in PROVIDERS:
        raise UsageError(
            f"onnxruntime option provider: expected one of {', '.join(PROVIDERS)}, "
            f"got {provider!r}."
        )
    kind = PROVIDERS[provider]
    if where not in kind.devices:
        raise UsageError(
            f"onnxruntime option provider={provider} serves {' and '.join(kind.devices)}, "
            f"the device is {device}.",
            hint=f"Say another --device, or a provider for {where}: "
            f"{', '.join(_serving(where)) or 'leave the option out'}.",
        )
    return provider, kind


def _parsed(device: str) -> tuple[str, int]:
    """Kind and number of a device."""
    parsed = _DEVICE.fullmatch(device)
    if parsed is None or (parsed[1] in ("cpu", "npu") and parsed[2]):
        raise BackendMissingError(
            f"the onnxruntime backend has no device {device!r}.",
            hint="It knows cpu, cuda:N, gpu, gpu:N and npu.",
        )
    return parsed[1], int(parsed[2] or 0)


def find_provider(runtime: Any, device: str, provider: str) -> ExecutionProvider:
    """The provider behind a device, if it can be had here.

    Args:
        runtime: The imported onnxruntime.
        device: ``cpu``, ``cuda:N``, ``gpu``, ``gpu:N`` or ``npu``.
        provider: Value of the option ``provider``.

    Raises:
        BackendMissingError: No such device, none of several providers is named, or this onnxruntime
            has no such provider.
        UsageError: A provider that does not serve the device.
    """
    _, kind = named_provider(device, provider)
    if kind is None:
        return ExecutionProvider()
    where, index = _parsed(device)
    available = runtime.get_available_providers()
    if kind.name in available:
        return ExecutionProvider(kind, where, index)
    if not kind.plugin:
        raise BackendMissingError(
            f"this ONNX Runtime has no {kind.name} for {device}; it has {', '.join(available)}.",
            hint=f"{kind.install} {kind.needs}",
        )
    _register(runtime, kind)
    return ExecutionProvider(kind, where, index, is_plugin=True)


def add_provider(
    runtime: Any, settings: Any, place: ExecutionProvider, *, quantized: bool
) -> list[Any] | None:
    """Tells a session's settings where to run.

    Args:
        runtime: The imported onnxruntime.
        settings: ``SessionOptions``, changed in place.
        place: Where to run.
        quantized: The model has Q/DQ, which some providers must be told of.

    Returns:
        The ``providers`` argument of the session; ``None`` where the settings carry them.

    Raises:
        BackendMissingError: The plugin sees no such device.
        UsageError: The provider computes no Q/DQ in INT8.
    """
    if place.kind is None:
        return [CPU]
    if quantized and place.kind.qdq == "refused":
        raise UsageError(
            f"{place.provider} does not compute Q/DQ in INT8.",
            hint="Build the float model for it, or leave the option provider out.",
        )
    settings.add_session_config_entry(_RECORD, "1")
    if not place.kind.memory_pattern:
        settings.enable_mem_pattern = False
    options = {**place.choice, **place.kind.options, **(place.kind.quantized if quantized else {})}
    if not place.is_plugin:
        return [(place.provider, options), CPU]
    devices = [found for found in runtime.get_ep_devices() if _is_device(found, place)]
    if place.index >= len(devices):
        raise BackendMissingError(
            f"{place.provider} sees {len(devices)} devices of the kind {place.device} here, not "
            f"number {place.index}.",
            hint=place.kind.needs,
        )
    own = {name: value for name, value in options.items() if name not in place.choice}
    settings.add_provider_for_devices([devices[place.index]], own)
    return None


def fix_shapes(settings: Any, place: ExecutionProvider, sizes: list[str]) -> None:
    """Gives named sizes of a model's inputs the value 1, for a provider that wants fixed shapes.

    Args:
        settings: ``SessionOptions``, changed in place.
        place: Where to run.
        sizes: Names of the sizes, ``N`` for a batch.
    """
    if place.kind is not None and place.kind.static_shapes:
        for name in sizes:
            settings.add_free_dimension_override_by_name(name, 1)


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
            hint="Check the driver of the device, and that the onnxruntime package has it.",
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise BackendMissingError(
            "this onnxruntime does not tell which nodes run where.",
            hint="Install a later one, 1.24 at least.",
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


def _serving(where: str) -> list[str]:
    return [name for name, kind in PROVIDERS.items() if where in kind.devices]


def _is_device(found: Any, place: ExecutionProvider) -> bool:
    """Whether a device that a plugin lists is of the kind that was asked for."""
    kinds = {"cuda": "gpu"}
    listed = str(found.device.type).rpartition(".")[2].lower()
    return found.ep_name == place.provider and listed == kinds.get(place.device, place.device)


def _register(runtime: Any, kind: Provider) -> None:
    """Loads a provider that comes as a package of its own; a second time it is there already."""
    if any(found.ep_name == kind.name for found in runtime.get_ep_devices()):
        return
    try:
        module = importlib.import_module(kind.plugin)
    except ImportError as error:
        raise BackendMissingError(
            f"ONNX Runtime has no {kind.name} here: {one_line(error)}.", hint=kind.install
        ) from error
    try:
        runtime.register_execution_provider_library(kind.name, module.get_library_path())
    except Exception as error:  # its exceptions have no base but Exception
        if "already" in str(error):  # it was registered, and sees no device
            return
        raise BackendMissingError(
            f"{kind.name} does not load: {one_line(error)}.", hint=kind.needs
        ) from error
