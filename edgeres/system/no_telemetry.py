"""Nothing leaves the machine unasked: what runtimes would tell their makers is off.

ONNX Runtime and MLflow read a variable of the environment, which children get too; one that the
user set stays. OpenVINO reads none: as it is imported, it loads ``openvino_telemetry`` where that
is installed, and goes without where it is not. So it is not there while OpenVINO is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Set by ``import edgeres``, before any runtime is imported."""

_REPORTERS = {"openvino": "openvino_telemetry"}


def disable_telemetry() -> None:
    """Sets :data:`VARIABLES` for this process and its children, where the user did not."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


@contextmanager
def without_telemetry(package: str) -> Iterator[None]:
    """While a package is imported, the package through which it would report is not there."""
    reporter = _REPORTERS.get(package)
    if reporter is None or reporter in sys.modules:
        yield
        return
    sys.modules[reporter] = None  # type: ignore[assignment]  # Python's own way to say: not there
    try:
        yield
    finally:
        del sys.modules[reporter]
