"""Targets: a backend on a device of this machine, and the rules to quantize for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgeres.backends import get_backend, target_names
from edgeres.backends.activations import AUTO, with_activations
from edgeres.backends.base import Backend, BuildConfig, QdqRules
from edgeres.backends.fit import installed_backend
from edgeres.backends.portable import PORTABLE, portable_rules
from edgeres.errors import UsageError


class BuildSettings(Protocol):
    """What a recipe says of one target's engines."""

    @property
    def device(self) -> str | None:
        """Where they are to run, if it says."""
        ...

    def to_config(self, device: str) -> BuildConfig:
        """The same for a backend."""
        ...


@dataclass(frozen=True)
class Target:
    """A backend on a device, and how weights and activations must be quantized for it.

    Attributes:
        backend: The engine maker.
        device: Where its engines run, ``cpu``, ``cuda:N``, ``gpu:N``, ``npu`` or ``auto``.
        rules: Rule set of that device.
        config: How its engines are built and run.
        not_executable: Why a built engine cannot run on this machine; ``None`` if it can.
        saturates: Whether INT8 sums overflow on that device, whatever the rule set asks for.
    """

    backend: Backend
    device: str
    rules: QdqRules
    not_executable: str | None
    saturates: bool
    config: BuildConfig

    @property
    def name(self) -> str:
        """Name of the backend, which is the name of the target."""
        return self.backend.name


def open_target(
    name: str,
    device: str | None = None,
    settings: BuildSettings | None = None,
    *,
    activations: str = AUTO,
) -> Target:
    """Finds a backend and asks it about this machine; the backend's best device if none is named.

    Args:
        name: The backend.
        device: ``cpu``, ``cuda:N``, ``gpu:N``, ``npu`` or ``auto``.
        settings: Its options and shapes.
        activations: Type of the activations; ``auto`` leaves it to the rule set.

    Raises:
        UsageError: No such backend, or settings that it does not take.
        BackendMissingError: It is not installed.
    """
    backend = installed_backend(name)
    device = device or (None if settings is None else settings.device)
    device = backend.named_device(device or (*backend.devices(), backend.default_device)[0])
    config = BuildConfig(device=device) if settings is None else settings.to_config(device)
    backend.check(config)
    rules = with_activations(backend.qdq_rules(device, config.options), activations)
    return Target(backend, device, rules, backend.not_executable(), rules.saturating, config)


def open_targets(
    names: Sequence[str],
    *,
    settings: Mapping[str, BuildSettings] | None = None,
    portable: bool = False,
    activations: str = AUTO,
) -> list[Target]:
    """Opens several targets.

    Args:
        names: Of the backends.
        settings: How to build, by name of the backend.
        portable: Let all share the rule set that satisfies each of them.
        activations: Type of the activations; ``auto`` leaves it to each rule set.

    Raises:
        EdgeResError: As :func:`open_target`.
    """
    chosen = settings or {}
    targets = [
        open_target(name, settings=chosen.get(name), activations=activations) for name in names
    ]
    if not portable:
        return targets
    shared = portable_rules([target.rules for target in targets])
    return [replace(target, rules=shared) for target in targets]


def rules_of(
    name: str,
    device: str | None = None,
    *,
    options: Mapping[str, str] | None = None,
    activations: str = AUTO,
) -> QdqRules:
    """Rule set of a target, or with the name ``portable`` the one that satisfies all targets.

    What is to compute the file need not be here, as far as the target can tell without it.

    Args:
        name: The backend, or ``portable``.
        device: Where the file is to run; the backend's best device if none.
        options: The backend's own, where they choose what computes the file.
        activations: Type of the activations; ``auto`` leaves it to the rule set.

    Raises:
        UsageError: No such target, or more than a name for ``portable``.
        BackendMissingError: A backend is not installed.
    """
    if name != PORTABLE:
        backend = installed_backend(name)
        device = device or (*backend.devices(), backend.default_device)[0]
        return with_activations(
            backend.qdq_rules(backend.named_device(device), options), activations
        )
    if device is not None or options or activations != AUTO:
        raise UsageError(
            "a portable file is for no device, and its options and activations are given.",
            hint="Leave --device, --option and --activations out.",
        )
    return open_targets(target_names(), portable=True)[0].rules


def runnable_targets() -> list[str]:
    """Names of the targets whose engines this machine can build and run."""
    backends = ((name, get_backend(name)) for name in target_names())
    return [
        name
        for name, backend in backends
        if backend.missing() is None and backend.not_executable() is None
    ]


def target_list(targets: Sequence[str]) -> list[str]:
    """Target names with ``all`` spelled out, each once."""
    names = [n for name in targets for n in (target_names() if name == "all" else (name,))]
    return list(dict.fromkeys(names))
