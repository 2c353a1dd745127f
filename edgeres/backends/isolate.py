"""Builds and tries engines in a child process, for models that did not come out of this run.

Compilers and runtimes are native code; a model from elsewhere may crash them, hang them or make
them take all memory. Here that ends a child, and the parent reports.
"""

from __future__ import annotations

from pathlib import Path

from edgeres.backends import get_backend
from edgeres.backends._runner import zero_feeds
from edgeres.backends.base import BuildConfig, Engine, ShapeRange
from edgeres.backends.sidecar import read_engine, shapes_to_json
from edgeres.system.child import run_limited

BUILD_SECONDS = 3600.0
TRIAL_SECONDS = 300.0
MEMORY_BYTES = 16 << 30
"""Address space of a child that works for a CPU; drivers of GPUs reserve more than any limit."""

_HERE = "edgeres.backends.isolate"


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
    run_limited(
        f"{_HERE}:build_file",
        {
            "backend": backend,
            "onnx": str(onnx),
            "out": str(out),
            "device": config.device,
            "threads": config.threads,
            "shapes": shapes_to_json(config.shapes),
            "options": dict(config.options),
        },
        seconds=BUILD_SECONDS,
        memory_bytes=_memory(config.device),
    )
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
    engine = read_engine(path)
    place = device or engine.device
    run_limited(
        f"{_HERE}:run_file",
        {"path": str(path), "device": place},
        seconds=TRIAL_SECONDS if seconds is None else seconds,
        memory_bytes=_memory(place),
    )


def build_file(
    backend: str,
    onnx: str,
    out: str,
    device: str,
    threads: int | None,
    shapes: dict[str, list[list[int]]],
    options: dict[str, str],
) -> None:
    """What the child of :func:`build_isolated` does; the backend tells a wrong range."""
    ranges = {name: ShapeRange(*map(tuple, three)) for name, three in shapes.items()}
    config = BuildConfig(device, threads, ranges, options)
    get_backend(backend).build(Path(onnx), Path(out), config)


def run_file(path: str, device: str) -> None:
    """What the child of :func:`try_engine` does."""
    engine = read_engine(Path(path))
    backend = get_backend(engine.backend)
    with backend.load(engine, BuildConfig(device=device)) as runner:
        runner.infer(zero_feeds(runner.inputs, batch=runner.batch_limits.fit(1)))


def _memory(device: str) -> int | None:
    return MEMORY_BYTES if device == "cpu" else None
