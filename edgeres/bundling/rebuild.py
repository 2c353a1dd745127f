"""Builds the engine of a bundle anew from its Q/DQ file, for a device that it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeres.backends.base import Backend, BuildConfig, Engine
from edgeres.backends.isolate import build_isolated
from edgeres.bundling.manifest import EngineEntry
from edgeres.bundling.open import OpenBundle
from edgeres.system.files import disk_errors


def rebuild_engine(
    bundle: OpenBundle, entry: EngineEntry, backend: Backend, folder: Path, config: BuildConfig
) -> Engine:
    """Builds an engine in a child process: the Q/DQ file may come from anywhere.

    Args:
        bundle: The bundle.
        entry: Its engine.
        backend: The engine's backend, which must be here.
        folder: A private folder; the engine goes into ``rebuilt/`` in it.
        config: Device and threads; options and shapes are those that it was built with before,
            apart from what belongs to the machine of that build.

    Raises:
        EdgeResError: As the backend's ``build``.
        StageError: The build crashed, or hit a limit.
    """
    dropped = backend.path_options | backend.place_options
    kept = {name: value for name, value in entry.options.items() if name not in dropped}
    config = replace(config, options={**kept, **config.options}, shapes=entry.shapes)
    place = folder / "rebuilt"
    with disk_errors(folder):
        place.mkdir()
        source = bundle.extract(entry.qdq, place).rename(place / "source.onnx")
    return build_isolated(source, place / f"model{backend.engine_suffix}", entry.backend, config)
