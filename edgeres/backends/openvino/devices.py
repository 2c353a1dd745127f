"""OpenVINO's devices: which this runtime lists, what each can do, and how it is told to compute.

``cpu``, ``gpu``, ``gpu:N``, ``npu`` and ``auto`` are ours; OpenVINO's are ``CPU``, ``GPU.N`` and
``NPU``. ``auto`` is the first of a GPU, an NPU and the CPU that is listed, and from then on that
device by name. OpenVINO's own ``AUTO`` begins on the CPU while another device compiles, so answers
and times would come from a device that nobody knows.

What was run is the CPU, the list and every refusal. GPU and NPU were not run on hardware: the
tests have a stand-in for the list of devices and their properties, and none for the arithmetic.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from edgeres.backends.openvino.ir import one_line_of
from edgeres.errors import BackendMissingError

CPU = "CPU"
AUTO = "auto"
NOT_RUN_ON_HARDWARE = (
    "edgeres itself was never run on such a device: compare the engine with one for cpu before you "
    "trust it"
)
_ORDER = ("GPU", "NPU", CPU)
_FORM = re.compile(r"cpu|npu|gpu(:\d+)?|auto")
_HINTS = {
    "GPU": "It needs an Intel GPU, its driver (the package intel-opencl-icd), and a user in the "
    "group render.",
    "NPU": "It needs a Core Ultra or later, the kernel's intel_vpu, and the packages "
    "intel-level-zero-npu and intel-driver-compiler-npu.",
}


@dataclass(frozen=True)
class Device:
    """A device that the runtime lists.

    Attributes:
        name: OpenVINO's name of it.
        capabilities: ``OPTIMIZATION_CAPABILITIES``: ``FP32``, ``FP16``, ``INT8``, ...
        full_name: What its maker calls it.
        architecture: Of its cores, as the runtime tells it; an engine's speed depends on it.
        driver: Version of its driver, where it is told.
        tiles: Of an NPU, or execution units of a GPU, where they are told.
    """

    name: str
    capabilities: frozenset[str]
    full_name: str = ""
    architecture: str = ""
    driver: str = ""
    tiles: str = ""

    @property
    def kind(self) -> str:
        """``CPU``, ``GPU`` or ``NPU``."""
        return self.name.partition(".")[0]

    @property
    def has_int8(self) -> bool:
        """Whether it computes in INT8."""
        return "INT8" in self.capabilities

    @property
    def float_precision(self) -> str:
        """In which precision float layers run: ``f32`` where the device has it, else ``f16``."""
        return "f32" if self.kind == CPU or "FP32" in self.capabilities else "f16"

    @property
    def ours(self) -> str:
        """The name on the command line: ``cpu``, ``gpu:0``, ``npu``."""
        kind, _, index = self.name.partition(".")
        return f"gpu:{index or 0}" if kind == "GPU" else kind.lower()

    @property
    def facts(self) -> dict[str, str]:
        """What an engine's behaviour on it depends on, for sidecars and keys; none for a CPU."""
        if self.kind == CPU:
            return {}
        facts = {
            "device": self.full_name,
            "architecture": self.architecture,
            "driver": self.driver,
            "execution units" if self.kind == "GPU" else "tiles": self.tiles,
        }
        return {name: text for name, text in facts.items() if text}

    def settings(self) -> dict[str, Any]:
        """Properties that make it compute what the file says, and nothing in its place."""
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.float_precision}
        if self.kind != "NPU":
            # Would quantize activations of float layers on its own, by the group.
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
        return settings


def listed(core: Any) -> tuple[Device, ...]:
    """The devices that can be named and asked, the CPU first: INT8 was proven there.

    One that cannot be asked does not take the others along; :func:`find_device` says why it cannot.
    """
    found = []
    for name in _names(core):
        with suppress(BackendMissingError):
            found.append(_describe(core, name))
    return tuple(sorted(found, key=lambda each: (each.kind != CPU, each.ours)))


def _names(core: Any) -> list[str]:
    return [name for name in core.available_devices if name.partition(".")[0] in _ORDER]


def find_device(core: Any, device: str) -> Device:
    """The device behind a name.

    Args:
        core: ``openvino.Core``.
        device: ``cpu``, ``gpu``, ``gpu:N``, ``npu`` or ``auto``.

    Raises:
        BackendMissingError: OpenVINO has no such kind of device, or the runtime does not list it;
            the message says what it needs.
    """
    if not _FORM.fullmatch(device):
        raise BackendMissingError(
            f"the openvino backend has no device {device!r}.",
            hint="It knows cpu, gpu, gpu:N, npu and auto.",
        )
    if device == "cpu":  # which a runtime always lists, and need not be asked
        return Device(CPU, frozenset({"FP32", "INT8"}))
    there = listed(core)
    if device == AUTO:
        return min(there, key=lambda each: (_ORDER.index(each.kind), each.ours))
    wanted = "gpu:0" if device == "gpu" else device
    for each in there:
        if each.ours == wanted:
            return each
    kind = wanted.partition(":")[0].upper()
    for name in _names(core):  # listed, and silent: this says why
        if Device(name, frozenset()).ours == wanted:
            _describe(core, name)
    raise BackendMissingError(
        f"OpenVINO does not list {device} here; it lists {', '.join(d.ours for d in there)}.",
        hint=_HINTS[kind],
    )


def has_bfloat16(core: Any, device: Device) -> bool:
    """Whether it is a CPU with instructions for bfloat16, which the runtime has to be asked."""
    return device.kind == CPU and "BF16" in _describe(core, CPU).capabilities


def check_where(compiled: Any, device: Device) -> None:
    """Refuses a model that was compiled for another device than the one asked for.

    Raises:
        BackendMissingError: It runs elsewhere.
    """
    where = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    kinds = {name.strip("()").partition(".")[0] for name in where}
    if kinds != {device.kind}:
        raise BackendMissingError(
            f"OpenVINO was to run on {device.ours} but runs on {', '.join(where)}.",
            hint=_HINTS.get(device.kind, "See `edgeres doctor`."),
        )


def _describe(core: Any, name: str) -> Device:
    def told(what: str) -> Any:
        try:
            return core.get_property(name, what)
        except RuntimeError:  # a property that this device does not have
            return ""

    try:
        capabilities = frozenset(map(str, core.get_property(name, "OPTIMIZATION_CAPABILITIES")))
    except RuntimeError as error:
        raise BackendMissingError(
            f"OpenVINO lists {name} but cannot ask it: {one_line_of(error)}.",
            hint=_HINTS.get(name.partition(".")[0], "See `edgeres doctor`."),
        ) from error
    kind = name.partition(".")[0]
    facts = (
        "FULL_DEVICE_NAME",
        "DEVICE_ARCHITECTURE",
        f"{kind}_DRIVER_VERSION",
        {"GPU": "GPU_EXECUTION_UNITS_COUNT", "NPU": "NPU_MAX_TILES"}.get(kind, ""),
    )
    return Device(name, capabilities, *(str(told(fact)) if fact else "" for fact in facts))
