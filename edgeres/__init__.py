"""edgeres: prune, quantize and prove residual networks on the engines that will run them.

Everything here loads on first use, so ``import edgeres`` is quick and needs neither torch nor a
runtime. The command line calls these functions and nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeres.version import __version__

if TYPE_CHECKING:
    from edgeres.backends.doctor import doctor
    from edgeres.benchmarking.benchmark import benchmark
    from edgeres.bundling.make import bundle
    from edgeres.bundling.session import Session
    from edgeres.evaluation.inspect import inspect
    from edgeres.evaluation.layerwise import compare
    from edgeres.evaluation.validate import validate
    from edgeres.pipeline.convert import convert
    from edgeres.pipeline.recipe_file import load_recipe
    from edgeres.stages.int8 import calibrate, quantize, sensitivity
    from edgeres.stages.network import build, export, prune, train
    from edgeres.tuning.tune import tune

__all__ = [
    "Session",
    "__version__",
    "benchmark",
    "build",
    "bundle",
    "calibrate",
    "compare",
    "convert",
    "doctor",
    "export",
    "inspect",
    "load_recipe",
    "prune",
    "quantize",
    "sensitivity",
    "train",
    "tune",
    "validate",
]

_HOMES = {
    "Session": "edgeres.bundling.session",
    "benchmark": "edgeres.benchmarking.benchmark",
    "build": "edgeres.stages.network",
    "bundle": "edgeres.bundling.make",
    "calibrate": "edgeres.stages.int8",
    "compare": "edgeres.evaluation.layerwise",
    "convert": "edgeres.pipeline.convert",
    "doctor": "edgeres.backends.doctor",
    "export": "edgeres.stages.network",
    "inspect": "edgeres.evaluation.inspect",
    "load_recipe": "edgeres.pipeline.recipe_file",
    "prune": "edgeres.stages.network",
    "quantize": "edgeres.stages.int8",
    "sensitivity": "edgeres.stages.int8",
    "train": "edgeres.stages.network",
    "tune": "edgeres.tuning.tune",
    "validate": "edgeres.evaluation.validate",
}


def __getattr__(name: str) -> Any:
    """Loads a public function when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgeres' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
