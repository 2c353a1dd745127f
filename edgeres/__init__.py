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
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.source import open_dataset
    from edgeres.data.types import Dataset
    from edgeres.errors import (
        ArtefactError,
        BackendMissingError,
        DataError,
        EdgeResError,
        GateError,
        ModelError,
        RecipeError,
        StageError,
        StorageError,
        UsageError,
    )
    from edgeres.evaluation.gates import Limits
    from edgeres.evaluation.inspect import inspect
    from edgeres.evaluation.layerwise import compare
    from edgeres.evaluation.validate import validate
    from edgeres.pipeline.convert import convert
    from edgeres.pipeline.recipe_file import load_recipe
    from edgeres.recipe.recipe import PreprocessBlock, Recipe
    from edgeres.report.schema import Report
    from edgeres.stages.int8 import calibrate, quantize, sensitivity
    from edgeres.stages.network import build, export, prune, train
    from edgeres.tuning.tune import tune

__all__ = [
    "ArtefactError",
    "BackendMissingError",
    "DataError",
    "Dataset",
    "EdgeResError",
    "GateError",
    "Limits",
    "ModelError",
    "Preprocess",
    "PreprocessBlock",
    "Recipe",
    "RecipeError",
    "Report",
    "Session",
    "StageError",
    "StorageError",
    "UsageError",
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
    "open_dataset",
    "prune",
    "quantize",
    "sensitivity",
    "train",
    "tune",
    "validate",
]

_HOMES = {
    "edgeres.errors": "ArtefactError BackendMissingError DataError EdgeResError GateError "
    "ModelError RecipeError StageError StorageError UsageError",
    "edgeres.backends.doctor": "doctor",
    "edgeres.benchmarking.benchmark": "benchmark",
    "edgeres.bundling.make": "bundle",
    "edgeres.bundling.session": "Session",
    "edgeres.data.preprocess": "Preprocess",
    "edgeres.data.source": "open_dataset",
    "edgeres.data.types": "Dataset",
    "edgeres.evaluation.gates": "Limits",
    "edgeres.evaluation.inspect": "inspect",
    "edgeres.evaluation.layerwise": "compare",
    "edgeres.evaluation.validate": "validate",
    "edgeres.pipeline.convert": "convert",
    "edgeres.pipeline.recipe_file": "load_recipe",
    "edgeres.recipe.recipe": "PreprocessBlock Recipe",
    "edgeres.report.schema": "Report",
    "edgeres.stages.int8": "calibrate quantize sensitivity",
    "edgeres.stages.network": "build export prune train",
    "edgeres.tuning.tune": "tune",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first asked for."""
    home = next((module for module, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        raise AttributeError(f"module 'edgeres' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, loaded or not."""
    return sorted(__all__)
