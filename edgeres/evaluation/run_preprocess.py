"""How images become numbers for a model that lies in an output folder of ``edgeres convert``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeres.backends.sidecar import require_engine_file
from edgeres.data.preprocess import Preprocess
from edgeres.errors import UsageError
from edgeres.evaluation import run_folder
from edgeres.system.publish import refuse_half_handover
from edgeres.system.stored_json import read_json_object


def run_preprocess(
    models: Sequence[Path],
    options: Mapping[str, Any],
    baseline: Path | None = None,
    *,
    features: Callable[[], bool] = lambda: False,
) -> Preprocess:
    """What the options say, on top of what lies beside the baseline given or a model's run's.

    Args:
        models: Engines or ONNX files; the first whose run says something counts.
        options: Fields of :class:`Preprocess` that somebody gave.
        baseline: File of answers, with the preprocessing beside it.
        features: Whether the samples are the network's input already, so that nobody need say it;
            asked where nobody does.

    Raises:
        ArtefactError: A run was not handed over whole, or its preprocessing is damaged.
        UsageError: Nothing says it.
    """
    for folder in (model for model in models if model.is_dir()):
        require_engine_file(folder)
    runs = [run_folder.run_of(model) for model in models]
    for run in runs:
        refuse_half_handover(run)
    files = [run / run_folder.BASELINE / run_folder.PREPROCESS for run in runs]
    if baseline is not None:
        files.insert(0, baseline.with_name(run_folder.PREPROCESS))
    stored = next((read_json_object(path) for path in files if path.is_file()), {})
    values = {**stored, **options}
    if not values and features():
        values = {"features": True}
    if not values:
        raise UsageError(
            f"{models[0]}: nothing says how its images are preprocessed.",
            hint="Give --scale, --mean, --std, --resize and --crop, or run the command in the "
            "output folder of `edgeres convert`.",
        )
    return Preprocess.from_dict({**_channels(models, str(values.get("layout", "nchw"))), **values})


def _channels(models: Sequence[Path], layout: str) -> dict[str, int]:
    """Channels of the images that the models take, where one of them is an ONNX file and tells."""
    from edgeres.quantization.isolate import input_shape

    for model in models:
        if model.suffix == ".onnx" and model.is_file():
            shape = input_shape(model)
            channels = shape[-1 if layout == "nhwc" else 1] if len(shape) == 4 else None
            return {"channels": channels} if channels else {}
    return {}
