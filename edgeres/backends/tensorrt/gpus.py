"""The GPUs of this machine, as the driver and, on a Jetson, its system describe them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from edgeres.backends.tensorrt.driver import DRIVER_HINT, call, load_driver
from edgeres.errors import BackendMissingError
from edgeres.system.board import l4t_version
from edgeres.system.files import read_or_empty

# CUdevice_attribute of the CUDA Driver API reference.
_MULTIPROCESSOR_COUNT = 16
_INTEGRATED = 18
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76

MODULE = Path("/proc/device-tree/compatible")


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it.

    Attributes:
        ordinal: Its place in the driver's order.
        name: The driver's name; every module of Jetson Orin is called ``Orin``.
        compute_capability: E.g. ``8.7``.
        driver: The CUDA version that the driver offers.
        uuid: As ``nvidia-smi -L`` writes it.
        multiprocessors: Number of streaming multiprocessors (SM) that it shows.
        memory_mib: Its memory in MiB; on a Jetson that of the system.
        shares_memory: Whether it uses the host's memory.
        l4t: Version of NVIDIA's Linux on a Jetson, e.g. ``36.4.3``; else empty.
        module: The board's name on a Jetson, e.g. ``nvidia,p3768-0000+p3767-0000``; else empty.
    """

    ordinal: int
    name: str
    compute_capability: str
    driver: str
    uuid: str
    multiprocessors: int
    memory_mib: int
    shares_memory: bool
    l4t: str = ""
    module: str = ""

    def facts(self) -> dict[str, str]:
        """What a plan for it depends on, for its sidecar and for keys; what is not known is out."""
        facts = {
            "gpu": self.name,
            "uuid": self.uuid,
            "driver": self.driver,
            "multiprocessors": str(self.multiprocessors),
            "memory_mib": str(self.memory_mib),
            "l4t": self.l4t,
            "module": self.module,
        }
        return {name: text for name, text in facts.items() if text}


def list_gpus() -> tuple[Gpu, ...]:
    """All GPUs that the driver shows, in the driver's order.

    Raises:
        BackendMissingError: There is no driver, or it shows no GPU.
        StageError: The driver fails when it is asked about one.
    """
    library = load_driver()
    version, count = ctypes.c_int(), ctypes.c_int()
    call(library, "cuDriverGetVersion", ctypes.byref(version))
    call(library, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise BackendMissingError("the NVIDIA driver shows no GPU.", hint=DRIVER_HINT)
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return tuple(_describe(library, ordinal, driver) for ordinal in range(count.value))


def _describe(library: ctypes.CDLL, ordinal: int, driver: str) -> Gpu:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name, identity = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    call(library, "cuDeviceGet", ctypes.byref(device), ordinal)
    call(library, "cuDeviceGetName", name, 256, device.value)
    call(library, "cuDeviceGetUuid", identity, device.value)
    call(library, "cuDeviceTotalMem_v2", ctypes.byref(memory), device.value)

    def attribute(which: int) -> int:
        answer = ctypes.c_int()
        call(library, "cuDeviceGetAttribute", ctypes.byref(answer), which, device.value)
        return answer.value

    major, minor = attribute(_COMPUTE_CAPABILITY_MAJOR), attribute(_COMPUTE_CAPABILITY_MINOR)
    shares_memory = bool(attribute(_INTEGRATED))
    return Gpu(
        ordinal=ordinal,
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        driver=driver,
        uuid=f"GPU-{UUID(bytes=identity.raw)}",
        multiprocessors=attribute(_MULTIPROCESSOR_COUNT),
        memory_mib=memory.value >> 20,
        shares_memory=shares_memory,
        l4t=l4t_version() if shares_memory else "",
        module=_module() if shares_memory else "",
    )


def _module() -> str:
    """The first of the device tree's names, which is the most exact: board and module."""
    return read_or_empty(MODULE).partition("\0")[0].strip()
