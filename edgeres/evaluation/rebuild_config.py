"""How a second engine is built so that it can stand beside a first one."""

from __future__ import annotations

from pathlib import Path

from edgeres.backends.base import Backend, BuildConfig, Engine
from edgeres.graph.summary import summarize


def built_like(
    engine: Engine, backend: Backend, onnx: Path, *, threads: int | None, reference: bool = False
) -> BuildConfig:
    """Settings to build and run an engine of another file as a given one was.

    Files of caches stay out: they belong to the given engine. So do shape ranges for inputs that
    the file does not have or fixes.

    Args:
        engine: The engine to be like.
        backend: Its backend.
        onnx: The file that is to be built.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        reference: Whether the file is the FP32 reference; then options that change the arithmetic
            of a float network stay out.

    Raises:
        ModelError: The file cannot be read.
    """
    dropped = backend.path_options | (backend.precision_options if reference else frozenset())
    free = set()
    if engine.shapes:
        free = {spec.name for spec in summarize(onnx).inputs if None in spec.shape}
    return BuildConfig(
        device=engine.device,
        threads=threads,
        shapes={name: ends for name, ends in engine.shapes.items() if name in free},
        options={n: value for n, value in engine.options.items() if n not in dropped},
    )
