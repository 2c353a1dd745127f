"""Which engine of a bundle this machine runs: made for its architecture, and right on its CPU.

A bundle may hold a network twice for one runtime: with weights that no INT8 sum can overflow with,
and with plain ones, which are more exact and need a CPU that adds INT8 products exactly.
"""

from __future__ import annotations

import platform

from edgeres.backends.base import BuildConfig
from edgeres.backends.fit import backend_here, check_saturation
from edgeres.bundling.manifest import ANY, EXACT_SUMS, EngineEntry
from edgeres.bundling.open import OpenBundle
from edgeres.errors import BackendMissingError, UsageError
from edgeres.system.environment import is_arm


def choose(bundle: OpenBundle, *, device: str | None = None, rebuild: bool = False) -> str:
    """The first target that can run here, with plain weights where it has them and they fit.

    Args:
        bundle: The bundle.
        device: Where to run; ``None`` takes each engine's own.
        rebuild: An engine for another architecture counts: it will be built anew.

    Raises:
        BackendMissingError: None can; says of each why not.
    """
    reasons, best = [], ""
    engines = bundle.manifest.engines
    for target, entry in engines.items():
        what = f"{bundle.path}: {target}"
        if best and (entry.backend != engines[best].backend or EXACT_SUMS not in entry.needs):
            continue
        try:
            check_fit(entry, what, device=device)
            if not rebuild:
                check_architecture(entry, what)
        except (BackendMissingError, UsageError) as error:
            reasons.append(f"{target}: {str(error).removeprefix(f'{what}: ')}")
        else:
            best = target
    if not best:
        raise BackendMissingError(f"{bundle.path}: no engine can run here. {' '.join(reasons)}")
    return best


def check_fit(entry: EngineEntry, what: str, *, device: str | None = None) -> None:
    """Refuses an engine whose runtime or device is not here, or whose sums overflow here.

    Raises:
        ArtefactError: No backend has that name.
        BackendMissingError: It does not fit; the message says why.
        UsageError: Its options make no sense on that device.
    """
    backend = backend_here(entry.backend, what)
    if device not in (None, entry.device):
        backend.check(BuildConfig(str(device), options=entry.options, shapes=entry.shapes))
    check_saturation(
        backend,
        device or entry.device,
        options=entry.options,
        saturating=EXACT_SUMS not in entry.needs,
        saturation_safe=entry.saturation_safe,
        what=what,
    )


def check_architecture(entry: EngineEntry, what: str) -> None:
    """Refuses an engine file that was compiled for another architecture.

    Raises:
        BackendMissingError: It was; it can be built anew.
    """
    here = this_architecture()
    if entry.architecture not in (ANY, here):
        raise BackendMissingError(
            f"{what}: its engine was compiled for {entry.architecture}, this machine is {here}."
        )


def this_architecture() -> str:
    """``x86_64``, ``aarch64``, ...: one name whatever the system calls it."""
    machine = platform.machine().lower()
    return "aarch64" if is_arm(machine) else {"amd64": "x86_64"}.get(machine, machine)
