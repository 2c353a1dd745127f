"""What backends whose runtime is one Python package have in common: is it here, which version.

Such a backend names its package and its options once; answers, checks, messages and the install
hint follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from edgeres.backends._vendor import read_options, refuse_shapes
from edgeres.backends.base import BuildConfig, Engine, Remarks
from edgeres.errors import BackendMissingError
from edgeres.system.extras import import_extra


@dataclass(frozen=True)
class Package:
    """A runtime's Python package."""

    name: str

    def load(self) -> ModuleType:
        """Imports the package.

        Raises:
            BackendMissingError: It is not installed, or its native libraries do not load.
        """
        return import_extra(self.name)


class PackagedBackend:
    """The part of :class:`edgeres.backends.base.Backend` that follows from the package."""

    name: str
    package: ClassVar[Package | None]
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    default_device = "cpu"
    precision_options: frozenset[str] = frozenset()
    path_options: frozenset[str] = frozenset()
    place_options: frozenset[str] = frozenset()
    portable_engines = True

    def float_builds(self, device: str) -> Mapping[str, Mapping[str, str]]:
        """None but FP32."""
        return {}

    def missing(self) -> str | None:
        """Says why the package cannot be used here; ``None`` if it can, or none is needed."""
        try:
            if self.package is not None:
                self.package.load()
        except BackendMissingError as error:
            return str(error)
        return None

    def not_executable(self) -> str | None:
        """Says why an engine cannot run here: what can build can run, see :meth:`missing`."""
        return self.missing()

    def versions(self) -> dict[str, str]:
        """Version of the package under its own name; empty where it is not here."""
        if self.package is None or self.missing():
            return {}
        return {self.package.name: self.version(self.package.load())}

    def place(self, device: str) -> dict[str, str]:
        """The GPU and its driver where the device is one; nothing for a CPU."""
        from edgeres.backends.tensorrt.compatibility import place_of

        return place_of(device) if device.startswith("cuda:") else {}

    def named_device(self, device: str) -> str:
        """The same: no name leaves the choice open."""
        return device

    def version(self, module: ModuleType) -> str:
        """The imported package's version."""
        return str(module.__version__)

    def remarks(self, engine: Engine) -> Remarks:
        """None: these runtimes say nothing while they build."""
        return Remarks()

    def runtime_options(self) -> dict[str, tuple[str, ...]]:
        """None."""
        return {}

    def check(self, config: BuildConfig) -> None:
        """Checks device and options; there are no shape ranges.

        Raises:
            BackendMissingError: The device is not here.
            UsageError: An option that it does not have, or a shape range.
        """
        self.check_device(config.device)
        refuse_shapes(config, backend=self.name)
        read_options(config.options, self.options, backend=self.name)

    def check_device(self, device: str) -> None:
        """Refuses another device than the CPU.

        Raises:
            BackendMissingError: It is another one.
        """
        if device != "cpu":
            raise BackendMissingError(
                f"the {self.name} backend runs on cpu, not on {device!r}.", hint="Use --device cpu."
            )
