"""Which TensorRT builds or runs here, for which GPU, and which plan belongs to which machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from edgeres.backends.base import Engine
from edgeres.backends.sidecar import check_engine, read_engine
from edgeres.backends.tensorrt.api import (
    FLAVORS,
    INSTALL_HINT,
    RTX_TARGETS,
    TITLES,
    Flavor,
    Trt,
    check_targets,
    load_trt,
)
from edgeres.backends.tensorrt.gpus import Gpu, list_gpus
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import ArtefactError, BackendMissingError, UsageError

VERSION_COMPATIBLE = "version_compatible"
_SAME_MEMORY = 1 / 8
"""Part by which the memory of machines of one model may differ: what the system keeps varies."""


def gpus_here() -> tuple[Gpu, ...]:
    """All GPUs, in the driver's order; none without a driver."""
    try:
        return list_gpus()
    except BackendMissingError:
        return ()


def gpu_of(device: str) -> Gpu:
    """The GPU behind ``cuda:N``; ``cpu``, the default of every backend, means the first one.

    Raises:
        UsageError: Not a device's name.
        BackendMissingError: There is no such GPU.
    """
    ordinal = ordinal_of(device)
    gpus = list_gpus()
    if ordinal >= len(gpus):
        raise BackendMissingError(
            f"there is no {device}: the driver shows {len(gpus)} GPU.",
            hint=f"Use cuda:0 to cuda:{len(gpus) - 1}.",
        )
    return gpus[ordinal]


def ordinal_of(device: str) -> int:
    """Number of the GPU in ``cuda:N``; 0 for ``cpu`` and ``cuda``.

    Raises:
        UsageError: Not a device's name.
    """
    kind, _, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or not (number or "0").isdecimal()):
        raise UsageError(f"expected a device such as cuda:0, got {device!r}.", hint="Say cuda:0.")
    return int(number or 0)


def choose_trt(flavor: Flavor | None) -> Trt:
    """TensorRT if it and a GPU are here, else TensorRT for RTX.

    Raises:
        BackendMissingError: Neither can build here.
    """
    if flavor is not None:
        return load_trt(flavor)
    if gpus_here():
        return load_trt()
    try:
        return load_trt("tensorrt_rtx")
    except BackendMissingError as error:
        if importlib.util.find_spec("tensorrt") is None:
            raise BackendMissingError(
                "TensorRT is not installed here.", hint=INSTALL_HINT
            ) from error
        raise BackendMissingError(
            "TensorRT is installed but builds only on a machine with an NVIDIA GPU and driver.",
            hint="Install `pip install 'edgeres[tensorrt-rtx]'`, which builds without one.",
        ) from error


def with_targets(trt: Trt, options: TensorRTOptions, device: str) -> TensorRTOptions:
    """The options with the compute capabilities spelled out where TensorRT for RTX builds.

    Raises:
        BackendMissingError: It does not support a target, or the GPU that was asked for.
        UsageError: Targets for standard TensorRT, or Turing.
    """
    targets = options.compute_capabilities
    if trt.is_rtx and not targets:
        targets = RTX_TARGETS
        if device != "cpu" and gpus_here():
            capability = gpu_of(device).compute_capability
            targets = RTX_TARGETS if capability in RTX_TARGETS else (capability,)
    check_targets(trt, targets)
    return replace(options, compute_capabilities=targets)


def place_of(device: str) -> dict[str, str]:
    """The GPU behind a device, see :meth:`Gpu.facts`; empty without it."""
    gpu = next((gpu for gpu in gpus_here() if gpu.ordinal == ordinal_of(device)), None)
    if gpu is None:
        return {}
    return {**gpu.facts(), "compute_capability": gpu.compute_capability}


def versions_of(
    trt: Trt, options: TensorRTOptions, gpu: Gpu | None, batches: Sequence[int]
) -> dict[str, str]:
    """What a plan depends on, for its sidecar.

    Args:
        trt: What built it.
        options: Of the build.
        gpu: What it was built on; ``None`` for TensorRT for RTX.
        batches: Batch sizes that its kernels were chosen for; none where the batch is fixed.
    """
    versions = {"flavor": trt.flavor, trt.flavor: trt.version, "rest": options.rest or "float32"}
    if batches:
        versions["opt_batch"] = ",".join(map(str, batches))
    if gpu is None:
        return {**versions, "compute_capabilities": ",".join(options.compute_capabilities)}
    if options.strip_plan:
        versions["strip_plan"] = "true"
    if options.hardware_compatibility is not None:
        versions["hardware_compatibility"] = options.hardware_compatibility
    if options.version_compatible:
        versions[VERSION_COMPATIBLE] = "true"
    if options.dla_core is not None:
        versions["dla_core"] = str(options.dla_core)
    return {**versions, **gpu.facts(), "compute_capabilities": gpu.compute_capability}


@dataclass(frozen=True)
class Loadable:
    """What was found out about a plan before it is deserialized.

    Attributes:
        trt: The TensorRT that takes it.
        gpu: Where it runs.
        version_compatible: Whether it holds a runtime of its own, by its sidecar.
    """

    trt: Trt
    gpu: Gpu
    version_compatible: bool


def check_loadable(engine: Engine, device: str, backend: str) -> Loadable:
    """All that can be checked before a plan, which is native code, is deserialized.

    Raises:
        ArtefactError: Damaged, another backend's, or another version's.
        BackendMissingError: No driver, GPU or TensorRT for it here.
    """
    check_engine(engine, backend)
    # The sidecar counts, not the object that was handed in.
    versions = read_engine(engine.path).versions
    flavor = next((name for name in FLAVORS if name == versions.get("flavor")), None)
    if flavor is None:
        raise ArtefactError(
            f"{engine.path}: its sidecar names no TensorRT flavor.", hint="Build the engine again."
        )
    gpu = gpu_of(device)
    trt = load_trt(flavor)
    built, compatible = versions.get(flavor, ""), versions.get(VERSION_COMPATIBLE) == "true"
    if built != trt.version and not (compatible and _is_later_of_major(trt.version, built)):
        wide = " and runs with later ones of that major version" if compatible else ""
        raise ArtefactError(
            f"{engine.path}: built by {TITLES[flavor]} {built}{wide}, here is {trt.version}.",
            hint="Build it again from the Q/DQ ONNX file.",
        )
    _check_gpu(engine.path, versions, gpu)
    return Loadable(trt, gpu, compatible)


def _is_later_of_major(here: str, built: str) -> bool:
    ours, theirs = (_numbers(version) for version in (here, built))
    return bool(theirs) and ours[:1] == theirs[:1] and ours >= theirs


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version such as ``10.13.3.9.post1``."""
    parts = takewhile(str.isdecimal, version.split("."))
    return tuple(int(part) for part in parts)


def _check_gpu(path: Path, versions: Mapping[str, str], gpu: Gpu) -> None:
    built_for = versions.get("compute_capabilities", "").split(",")
    compatibility = versions.get("hardware_compatibility")
    newer_ampere = compatibility == "ampere_plus" and int(gpu.compute_capability.split(".")[0]) >= 8
    other = "" if "gpu" not in versions or compatibility else _difference(versions, gpu)
    if newer_ampere or (gpu.compute_capability in built_for and not other):
        return
    what = versions.get("gpu", "compute capability " + ", ".join(built_for))
    raise BackendMissingError(
        f"{path}: built for {what}, this GPU is {gpu.name} ({other or gpu.compute_capability}).",
        hint="Build it again from the Q/DQ ONNX file, for this GPU.",
    )


def _difference(versions: Mapping[str, str], gpu: Gpu) -> str:
    """What tells this GPU from the one that a plan was built on; empty if it is of that model.

    All modules of Jetson Orin have one name: processors, memory and board tell them apart.
    """
    built = {
        name: int(versions[name])
        for name in ("multiprocessors", "memory_mib")
        if versions.get(name, "").isdecimal()
    }
    if versions["gpu"] != gpu.name:
        return gpu.compute_capability
    if built.get("multiprocessors", gpu.multiprocessors) != gpu.multiprocessors:
        return f"{gpu.multiprocessors} multiprocessors instead of {built['multiprocessors']}"
    memory_mib = built.get("memory_mib", gpu.memory_mib)
    if abs(memory_mib - gpu.memory_mib) > _SAME_MEMORY * memory_mib:
        return f"{gpu.memory_mib} MiB of memory instead of {memory_mib}"
    module = versions.get("module", gpu.module)
    return f"{gpu.module} instead of {module}" if module != gpu.module else ""
