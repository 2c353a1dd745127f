"""Whether an engine was built for what this machine is, asked before any of it is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping

from edgeres.backends import backend_names, get_backend
from edgeres.backends.base import Backend, Engine
from edgeres.errors import ArtefactError, BackendMissingError
from edgeres.system.environment import describe_environment


def installed_backend(name: str) -> Backend:
    """The backend of that name, if it can build engines here.

    Raises:
        UsageError: No backend has that name.
        BackendMissingError: It cannot; the message says why, and the cure.
    """
    backend = get_backend(name)
    reason = backend.missing()
    if reason is not None:
        raise BackendMissingError(reason)
    return backend


def backend_of(name: str, what: str) -> Backend:
    """The backend that a file says it was built by; ``what`` names the file.

    Raises:
        ArtefactError: No backend has that name.
    """
    if name not in backend_names():
        raise ArtefactError(
            f"{what}: was built by {name!r}, which is no backend of this edgeres.",
            hint="A newer edgeres may know it.",
        )
    return get_backend(name)


def backend_here(name: str, what: str) -> Backend:
    """As :func:`backend_of`, if this machine can run it.

    Raises:
        ArtefactError: No backend has that name.
        BackendMissingError: It cannot; the message says why.
    """
    backend = backend_of(name, what)
    reason = backend.not_executable()
    if reason is not None:
        raise BackendMissingError(
            f"{what}: cannot run on this machine: {reason}",
            hint="Run this command on a machine that can.",
        )
    return backend


def executable_backend(engine: Engine) -> Backend:
    """As :func:`backend_here`, of an engine that lies here."""
    return backend_here(engine.backend, str(engine.path))


def check_versions(built: Mapping[str, str], backend: Backend, what: str) -> None:
    """Refuses an engine that a later version of its runtime built than the one that is here.

    Engine files that are portable between versions are so in one direction. What is stricter than
    that (plans of one exact version and GPU) the backend checks itself on loading.

    Raises:
        ArtefactError: The runtime here is older.
    """
    for name, here in backend.versions().items():
        if name in built and _release(here) < _release(built[name]):
            raise ArtefactError(
                f"{what}: built with {name} {built[name]}, here is {here}.",
                hint=f"Update {name}, or build the engine again from its Q/DQ file (--rebuild).",
            )


def check_saturation(
    backend: Backend,
    device: str,
    *,
    options: Mapping[str, str] | None = None,
    saturating: bool,
    saturation_safe: bool,
    what: str,
) -> None:
    """Refuses weights whose INT8 sums overflow on this CPU but did not where they were proven.

    CPUs with instructions for INT8 sums are passed over; any other is probed, for whether sums
    overflow depends on the runtime as well.

    Args:
        backend: The engine's backend.
        device: Where it is to run.
        options: Of its build.
        saturating: Whether sums overflowed where it was proven; it was measured with that then.
        saturation_safe: Whether its weights cannot overflow.
        what: For the message.

    Raises:
        BackendMissingError: Sums overflow here.
    """
    if saturation_safe or saturating or describe_environment(()).int8_dot_products:
        return
    if backend.qdq_rules(device, options).saturating:
        raise BackendMissingError(
            f"{what}: proven on a CPU that adds INT8 products exactly; on this one its sums "
            "overflow and its answers would be wrong.",
            hint="Convert the network again with `quantize: {saturation_safe: on}`; a rebuild "
            "does not help.",
        )


def _release(version: str) -> tuple[int, ...]:
    """Major and minor number at the start of a version; nothing for a version of another form."""
    numbers = re.match(r"(\d+)(?:\.(\d+))?", version)
    return tuple(int(part or 0) for part in numbers.groups()) if numbers else ()
