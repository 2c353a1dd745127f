"""What a program hands to a run: a recipe or a torch module, data sets or texts that name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeres.data.bad_images import first_image
from edgeres.data.source import open_dataset
from edgeres.data.types import Dataset
from edgeres.errors import UsageError
from edgeres.evaluation import run_folder
from edgeres.pipeline.module_source import said_fields
from edgeres.pipeline.recipe_file import load_recipe
from edgeres.recipe.preprocess import PreprocessBlock
from edgeres.recipe.recipe import Recipe
from edgeres.system.extras import require_packages
from edgeres.system.files import disk_errors


class TorchModule(Protocol):
    """What a ``torch.nn.Module`` looks like where torch is not imported."""

    training: bool

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Its weights by name."""
        ...


@dataclass(frozen=True)
class HandedOver:
    """What a program hands to a run.

    Attributes:
        recipe: What to do.
        validation: Samples to judge by; ``None`` for those that the recipe names.
        calibration: Samples to calibrate with, likewise.
        note: What a person should know of a module's export; empty where nothing.
    """

    recipe: Recipe
    validation: Dataset | None
    calibration: Dataset | None
    note: str = ""


def handed_over(
    source: Recipe | TorchModule,
    output: Path,
    *,
    validation: Dataset | str | None,
    calibration: Dataset | str | None,
    preprocess: PreprocessBlock | None,
    settings: Mapping[str, Any],
) -> HandedOver:
    """Makes the recipe of a run; a module is written into the output folder as ONNX.

    Args:
        source: A recipe, or the network, which stays as it is.
        output: Folder of the results.
        validation: Samples to judge by, or the text that names them.
        calibration: Likewise; of a module those of the validation where ``None``.
        preprocess: How images are prepared; what is left out is as it travels with a module.
        settings: Other keys of the recipe, dotted.

    Raises:
        UsageError: No samples, no module, or the recipe makes no sense.
        ModelError: The module cannot be exported.
        GateError: The ONNX file answers otherwise than the module.
        EdgeResError: The samples cannot be opened.
    """
    if not isinstance(source, Recipe):
        calibration = validation if calibration is None else calibration
    changes: dict[str, Any] = {}
    if preprocess is not None:
        changes["preprocess"] = preprocess.said()
    for key, samples in (("validation", validation), ("calibration", calibration)):
        if isinstance(samples, str):
            changes[f"data.{key}"] = samples
    changes |= settings
    note = ""
    if isinstance(source, Recipe):
        recipe = source.override(changes, where="convert") if changes else source
    else:
        recipe, note = _of_module(source, output, validation, changes)
    return HandedOver(recipe, _opened(validation), _opened(calibration), note)


def _opened(samples: Dataset | str | None) -> Dataset | None:
    return None if isinstance(samples, str) else samples


def _of_module(
    module: TorchModule, output: Path, samples: Dataset | str | None, changes: Mapping[str, Any]
) -> tuple[Recipe, str]:
    if samples is None:
        raise UsageError(
            "a module needs samples that it is judged by.",
            hint='Give validation="imagefolder:val", or a data set of your own.',
        )
    require_packages(["torch", "onnxscript"])
    from edgeres.modules.handed import write_handed

    file = output / run_folder.HANDED
    of_module = {
        "name": type(module).__name__.lower(),
        "prune": None,
        "model.source": str(file),
        "gates.max_drop": None,  # each task has a budget in its own unit
    }
    recipe = load_recipe(None, {**of_module, **changes})
    if isinstance(samples, str):
        samples = open_dataset(samples, split="validation", labels_needed=False)
    image = first_image(samples)
    said = said_fields(recipe.preprocess)
    with disk_errors(file):
        output.mkdir(parents=True, exist_ok=True)
        brought = write_handed(
            module,
            file,
            said=said,
            image=(image.height, image.width),
            input_size=recipe.model.input_size,
            every=not recipe.is_classifier,
        )
    if brought.preprocess is not None:
        recipe = recipe.override({"preprocess": {**brought.preprocess.to_dict(), **said}})
    return recipe, " ".join(brought.notes)
