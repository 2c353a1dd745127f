"""What is here and what is missing: the machine, the backends, their devices, INT8 saturation.

Each backend is asked in a child process, so that a runtime that crashes or hangs while it loads is
one line of the answer and not the end of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgeres.backends import backend_names, get_backend, target_names
from edgeres.backends.probe import float_shapes
from edgeres.errors import BackendMissingError, EdgeResError, StageError
from edgeres.system.board import temperatures_c
from edgeres.system.child import run_limited
from edgeres.system.environment import Environment, describe_environment
from edgeres.system.progress import ProgressCallback


@dataclass(frozen=True)
class BackendHealth:
    """What one backend can do here.

    Attributes:
        name: The backend.
        missing: Why it cannot build engines, with the install hint; ``None`` if it can.
        not_executable: Why built engines cannot run; ``None`` if they can.
        devices: Devices it can use, best first.
        versions: Versions of the runtime's packages.
        saturating: By device, whether INT8 sums overflow silently there, as a run of the engine
            showed; devices that could not be probed are absent.
        float_layers: By device, layers that run in float there though they are quantized.
        wrong_lowest_weight: By device, whether weights of -128 give wrong sums there.
        no_int8: By device beside the first, why nothing can be quantized for it.
        trouble: What went wrong while asking, empty if nothing did.
    """

    name: str
    missing: str | None
    not_executable: str | None
    devices: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    saturating: Mapping[str, bool] = field(default_factory=dict)
    wrong_lowest_weight: Mapping[str, bool] = field(default_factory=dict)
    float_layers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    no_int8: Mapping[str, str] = field(default_factory=dict)
    trouble: str = ""

    @property
    def ready(self) -> bool:
        """Whether it can build and run engines here."""
        return self.missing is None and self.not_executable is None and not self.trouble


@dataclass(frozen=True)
class Health:
    """The machine, all backends, and how warm it is now, by thermal zone."""

    environment: Environment
    backends: tuple[BackendHealth, ...]
    temperatures_c: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "environment": self.environment.to_dict(),
            "temperatures_c": dict(self.temperatures_c),
            "backends": {
                backend.name: asdict(backend) | {"ready": backend.ready}
                for backend in self.backends
            },
        }


def doctor(*, seconds: float = 60.0, progress: ProgressCallback | None = None) -> Health:
    """Looks at the machine and asks every backend.

    Args:
        seconds: Time that each backend has to answer.
        progress: Called with backends asked and backends in all.
    """
    names = backend_names()
    found = []
    for number, name in enumerate(names, start=1):
        found.append(_ask(name, seconds))
        if progress is not None:
            progress(number, len(names))
    return Health(describe_environment(), tuple(found), temperatures_c())


def backend_health(name: str) -> BackendHealth:
    """Asks one backend in this process; what it raises on purpose becomes its ``trouble``.

    Raises:
        UsageError: No backend has that name.
    """
    backend = get_backend(name)
    missing, not_executable = backend.missing(), backend.not_executable()
    devices: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    saturating: dict[str, bool] = {}
    lowest: dict[str, bool] = {}
    in_float: dict[str, tuple[str, ...]] = {}
    no_int8: dict[str, str] = {}
    trouble = ""
    try:
        versions = backend.versions()
        if missing is None:
            devices = backend.devices()
            versions |= backend.place(devices[0]) if devices else {}
        if missing is None and not_executable is None:
            for device in devices:
                try:
                    rules = backend.qdq_rules(device)
                except BackendMissingError as error:
                    if device == devices[0]:
                        raise
                    no_int8[device] = str(error)
                    continue
                saturating[device] = rules.saturating
                lowest[device] = rules.wrong_lowest_weight
                if name in target_names():
                    in_float[device] = float_shapes(backend, device)
    except EdgeResError as error:
        trouble = str(error)
    return BackendHealth(
        name,
        missing,
        not_executable,
        tuple(devices),
        versions,
        saturating,
        lowest,
        in_float,
        no_int8,
        trouble,
    )


def describe_backend(name: str) -> dict[str, Any]:
    """:func:`backend_health` as plain JSON values: what the child process calls."""
    return asdict(backend_health(name))


def _ask(name: str, seconds: float) -> BackendHealth:
    try:
        told = run_limited(describe_backend, seconds=seconds, memory_bytes=None)(name)
    except StageError as error:
        return BackendHealth(name, None, None, trouble=str(error))
    return BackendHealth(**{**told, "devices": tuple(told["devices"])})
