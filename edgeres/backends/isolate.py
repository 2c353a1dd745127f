"""Builds and tries engines in a child process, for models that did not come out of this run.

Compilers and runtimes are native code; a model from elsewhere may crash them, hang them or make
them take all memory. Here that ends a child, and the parent reports.
"""

from __future__ import annotations

from pathlib import Path

from edgeres.backends import get_backend
from edgeres.backends._runner import zero_feeds
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.sidecar import read_engine
from edgeres.system.child import run_limited

BUILD_SECONDS = 3600.0
TRIAL_SECONDS = 300.0
MEMORY_BYTES = 16 << 30
"""Address space of a child that works for a CPU; drivers of GPUs reserve more than any limit."""


def build_isolated(onnx: Path, out: Path, backend: str, config: BuildConfig) -> Engine:
    """As :meth:`edgeres.backends.base.Backend.build`, in a child process.

    Args:
        onnx: Model whose precision lies in the graph.
        out: Engine file, with the backend's suffix.
        backend: Name of a backend.
        config: Device, threads, shapes and options.

    Raises:
        EdgeResError: What the build raised.
        StageError: It crashed, or hit a limit.
    """
    memory_bytes = _memory(config.device)
    build = run_limited(build_file, seconds=BUILD_SECONDS, memory_bytes=memory_bytes)
    build(backend, onnx, out, config)
    return read_engine(out)


def try_engine(path: Path, *, device: str | None = None, seconds: float | None = None) -> None:
    """Loads an engine and runs it once on zeros, in a child process.

    Args:
        path: Engine file, with its sidecar beside it.
        device: Where to run it; where it was built for if left out.
        seconds: Time limit, ``TRIAL_SECONDS`` where not given.

    Raises:
        EdgeResError: What loading or running raised.
        StageError: The engine crashed, hung or hit a limit.
    """
    place = device or read_engine(path).device
    limit = TRIAL_SECONDS if seconds is None else seconds
    run_limited(run_file, seconds=limit, memory_bytes=_memory(place))(path, place)


def build_file(backend: str, onnx: Path, out: Path, config: BuildConfig) -> None:
    """What the child of :func:`build_isolated` does."""
    get_backend(backend).build(onnx, out, config)


def run_file(path: Path, device: str) -> None:
    """What the child of :func:`try_engine` does."""
    engine = read_engine(path)
    backend = get_backend(engine.backend)
    with backend.load(engine, BuildConfig(device=device)) as runner:
        runner.infer(zero_feeds(runner.inputs, batch=runner.batch_limits.fit(1)))


def _memory(device: str) -> int | None:
    return MEMORY_BYTES if device == "cpu" else None
