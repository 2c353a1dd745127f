"""What the engines of a target and their answers depend on, for the keys of their stages."""

from __future__ import annotations

from dataclasses import asdict

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.target import Target
from edgeres.pipeline.run import Run


def place_key(target: Target) -> dict[str, object]:
    """What an engine depends on besides the model: part of the keys."""
    return {
        "backend": target.name,
        "device": target.device,
        "place": target.backend.place(target.device),
        "versions": target.backend.versions(),
        "saturates": target.saturates,
    }


def build_key(config: BuildConfig) -> dict[str, object]:
    """Everything that was asked of a build, for its key."""
    return {"build": asdict(config)}


def run_key(engine: Engine) -> dict[str, object]:
    """How an engine is run, for the keys of what comes of it; nothing where that is as ever."""
    return {"options": dict(engine.options)} if engine.options else {}


def path_key(target: Target) -> dict[str, str]:
    """Options that an engine does not remember, because they are paths of this machine."""
    paths, options = target.backend.path_options, target.config.options
    return {name: value for name, value in options.items() if name in paths}


def machine_key(run: Run) -> dict[str, object]:
    """What the answers and the layers of an engine depend on besides the engine.

    The number of threads decides in which order sums of floats are taken.
    """
    here = run.environment
    return {"cpu": here.cpu, "isa": list(here.isa), "threads": here.threads}
