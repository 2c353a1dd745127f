"""Builds the engine of a bundle anew from its Q/DQ file, for a device that it does not fit."""

from __future__ import annotations

from pathlib import Path

from edgeres.backends import get_backend
from edgeres.backends.base import Backend, BuildConfig, Engine
from edgeres.backends.sidecar import read_engine
from edgeres.bundling.manifest import EngineEntry
from edgeres.bundling.open import OpenBundle
from edgeres.child import run_limited
from edgeres.files import disk_errors

SECONDS = 3600.0
MEMORY_BYTES = 16 << 30


def rebuild_engine(
    bundle: OpenBundle, entry: EngineEntry, backend: Backend, folder: Path, config: BuildConfig
) -> Engine:
    """Builds an engine in a child process: the Q/DQ file may come from anywhere.

    Args:
        bundle: The bundle.
        entry: Its engine.
        backend: The engine's backend, which must be here.
        folder: A private folder; the engine goes into ``rebuilt/`` in it.
        config: Device and threads.

    Raises:
        EdgeResError: As the backend's ``build``.
        StageError: The build crashed, or hit a limit.
    """
    place = folder / "rebuilt"
    out = place / f"model{backend.engine_suffix}"
    with disk_errors(folder):
        place.mkdir()
        qdq = bundle.extract(entry.qdq, place)
        source = qdq.rename(place / "source.onnx")
    run_limited(
        "edgeres.bundling.rebuild:build_file",
        {
            "backend": entry.backend,
            "qdq": str(source),
            "out": str(out),
            "device": config.device,
            "threads": config.threads,
        },
        seconds=SECONDS,
        memory_bytes=MEMORY_BYTES if config.device == "cpu" else None,
    )
    return read_engine(out)


def build_file(backend: str, qdq: str, out: str, device: str, threads: int | None) -> None:
    """What the child does."""
    get_backend(backend).build(Path(qdq), Path(out), BuildConfig(device=device, threads=threads))
