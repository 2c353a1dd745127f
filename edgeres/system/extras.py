"""Packages that not every installation has: imported where they are used, or a plain error.

One table says which extra of edgeres brings which, so that a missing package is never taken for a
bug: a place that needs one imports it with :func:`import_extra`, and where another import fails,
:func:`missing_package` says the same of it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from types import ModuleType

from edgeres.errors import BackendMissingError, one_line
from edgeres.system.no_telemetry import without_telemetry

EXTRAS = {
    "torch": "torch",
    "onnxscript": "torch",
    "torch_pruning": "torch",
    "keras": "keras",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "mlperf_loadgen": "loadgen",
    "optuna": "tune",
    "asyncssh": "ssh",
    "distributed": "cluster",
    "mlflow": "mlflow",
    "cryptography": "sign",
    "oras": "registry",
    "altair": "report",
    "vl_convert": "report",
    "jinja2": "report",
    "soundfile": "audio",
    "pillow_heif": "heic",
}
"""Package to the extra of edgeres that installs it."""


def import_extra(module: str, *, extra: str = "", user: str = "") -> ModuleType:
    """Imports a package that an extra of edgeres installs.

    Vendor packages fail in many ways: absent, or present but with a library that does not load.

    Args:
        module: Name of the package, e.g. ``openvino``.
        extra: The extra of edgeres that installs it; that of the table where left out.
        user: What needs it, for the message.

    Raises:
        BackendMissingError: It is not installed, or its native libraries do not load.
    """
    package = module.partition(".")[0]
    hint = _hint(extra or EXTRAS[package])
    name = f"{user} needs {module}, which" if user else module
    try:
        with without_telemetry(package):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (error.name == module or module.startswith(f"{error.name}.")):
            raise BackendMissingError(f"{name} is not installed.", hint=hint) from error
        raise BackendMissingError(
            f"{name} is installed but needs {error.name}, which is not.", hint=hint
        ) from error
    except (ImportError, OSError) as error:
        _pass_on_an_ending(error)
        raise BackendMissingError(
            f"{name} is installed but does not load: {one_line(error)}.",
            hint=f"Reinstall it for this machine. {hint}",
        ) from error


def _pass_on_an_ending(error: BaseException) -> None:
    """Lets a program end that was told to while native code was imported, which says less of it.

    Raises:
        KeyboardInterrupt: As the code that was imported got it.
        SystemExit: Likewise.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SystemExit | KeyboardInterrupt):
            raise cause
        cause = cause.__cause__ or cause.__context__


def missing_package(error: BaseException) -> BackendMissingError | None:
    """What a failed import says, where it is of a package in the table; else ``None``."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    return _missing(package) if package in EXTRAS else None


def require_packages(packages: Iterable[str]) -> None:
    """Refuses to begin what would end at a missing package; nothing is imported.

    Raises:
        BackendMissingError: One is not installed.
    """
    for package in packages:
        try:
            found = importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):  # a module that says nothing of itself
            found = False
        if not found:
            raise _missing(package)


def _missing(package: str) -> BackendMissingError:
    return BackendMissingError(f"{package} is not installed.", hint=_hint(EXTRAS[package]))


def _hint(extra: str) -> str:
    return f'Install it with: pip install "edgeres[{extra}]".'
