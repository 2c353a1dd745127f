"""edgeres: prune, quantize and prove residual networks on the engines that will run them.

Everything here loads on first use, so ``import edgeres`` is quick and needs neither torch nor a
runtime. The command line calls these functions and nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgeres.system.no_telemetry import disable_telemetry
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
    from edgeres.evaluation.inspect import inspect
    from edgeres.evaluation.layerwise import compare
    from edgeres.evaluation.validate import validate
    from edgeres.pipeline.convert import convert
    from edgeres.pipeline.recipe_file import load_recipe
    from edgeres.recipe.gates import Limits
    from edgeres.recipe.preprocess import PreprocessBlock
    from edgeres.recipe.prune import PruneSettings
    from edgeres.recipe.quantize import MixedPrecisionSettings, QuantizeBlock, QuantizeSettings
    from edgeres.recipe.recipe import ExportSettings, Recipe
    from edgeres.recipe.training import (
        FinetuneSettings,
        QatSettings,
        SparseSettings,
        TrainSettings,
    )
    from edgeres.report.schema import Report
    from edgeres.stages.int8 import calibrate, quantize, sensitivity
    from edgeres.stages.network import build, export, prune, train
    from edgeres.tuning.settings import TuneSettings
    from edgeres.tuning.tune import tune

disable_telemetry()

__all__ = [
    "ArtefactError",
    "BackendMissingError",
    "DataError",
    "Dataset",
    "EdgeResError",
    "ExportSettings",
    "FinetuneSettings",
    "GateError",
    "Limits",
    "MixedPrecisionSettings",
    "ModelError",
    "Preprocess",
    "PreprocessBlock",
    "PruneSettings",
    "QatSettings",
    "QuantizeBlock",
    "QuantizeSettings",
    "Recipe",
    "RecipeError",
    "Report",
    "Session",
    "SparseSettings",
    "StageError",
    "StorageError",
    "TrainSettings",
    "TuneSettings",
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
    "edgeres.evaluation.inspect": "inspect",
    "edgeres.evaluation.layerwise": "compare",
    "edgeres.evaluation.validate": "validate",
    "edgeres.pipeline.convert": "convert",
    "edgeres.pipeline.recipe_file": "load_recipe",
    "edgeres.recipe.gates": "Limits",
    "edgeres.recipe.preprocess": "PreprocessBlock",
    "edgeres.recipe.prune": "PruneSettings",
    "edgeres.recipe.quantize": "MixedPrecisionSettings QuantizeBlock QuantizeSettings",
    "edgeres.recipe.recipe": "ExportSettings Recipe",
    "edgeres.recipe.training": "FinetuneSettings QatSettings SparseSettings TrainSettings",
    "edgeres.report.schema": "Report",
    "edgeres.stages.int8": "calibrate quantize sensitivity",
    "edgeres.stages.network": "build export prune train",
    "edgeres.tuning.settings": "TuneSettings",
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
