"""Do the images reach the network as they did when its baseline was made?

A wrong mean, standard deviation, scale, channel order or size makes every engine answer badly, and
no layer is to blame. Two things tell it from a layer's fault: the preprocessing that the run kept
beside its baseline, and the FP32 network itself, which must give the answers in the baseline's file
again.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.data.preprocess import Preprocess
from edgeres.errors import EdgeResError
from edgeres.evaluation import run_folder
from edgeres.evaluation.predictions import Predictions
from edgeres.sqnr import sqnr_db
from edgeres.system.files import file_sha256
from edgeres.tasks.answers import Answers
from edgeres.tasks.kept import kept

if TYPE_CHECKING:
    from edgeres.data.types import Dataset


_SAME_DB = 40.0
"""FP32 runtimes agree to over 80 dB; a mean that is off by a hundredth of the range leaves less."""
_BATCH = 16


def preprocess_differs(folder: Path, preprocess: Preprocess) -> str:
    """What is set otherwise than beside the baseline, in words; empty where nothing is or is known.

    Args:
        folder: ``baseline`` folder of a run of ``convert``, or where its files were copied to.
        preprocess: How images become numbers now.
    """
    file = folder / run_folder.PREPROCESS
    if not file.is_file():
        return ""
    try:
        then = _settings(Preprocess.from_json(file.read_text(encoding="utf-8")))
    except (OSError, EdgeResError):
        return ""
    now = _settings(preprocess)
    other = [
        f"{key} is {_short(now[key])} here and {_short(then[key])} in {file}"
        for key in now
        if now[key] != then[key]
    ]
    return ", ".join(other)


def images_differ(
    folder: Path,
    baseline: Predictions | Answers,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    samples: int,
    threads: int | None = None,
    isolate: bool = False,
) -> str:
    """Whether the FP32 network gives the baseline's answers again; if not, why, in one sentence.

    Args:
        folder: ``baseline`` folder of a run of ``convert``. Where its FP32 network is not there, or
            the baseline is not of that network, only the preprocessing beside it is looked at.
        baseline: Answers of the FP32 network, read from a file.
        dataset: The images that it answered.
        preprocess: How they become numbers now.
        samples: How many of them to run.
        threads: CPU threads; ``None`` leaves the choice to ONNX Runtime.
        isolate: Whether the network first runs once in a child process, where it may crash or hang.

    Returns:
        Empty where the images are the same as far as can be told.

    Raises:
        DataError: The images do not fit the network.
        BackendMissingError: ONNX Runtime is not installed.
        StageError: The network crashed or hung in its trial.
    """
    from edgeres.data.batches import batches
    from edgeres.quantization.isolate import try_model
    from edgeres.quantization.simulate import simulated_logits

    settings = preprocess_differs(folder, preprocess)
    answers_differ, fp32 = "", folder / run_folder.MODEL
    comparable = (
        fp32.is_file()
        and baseline.samples == len(dataset)  # else images were left out and rows are not theirs
        and baseline.model_sha256 == file_sha256(fp32)
    )
    if comparable:
        if isolate:
            try_model(fp32)
        sample = dataset.subset(range(min(samples, len(dataset))))
        parts = (part for part, _ in batches(sample, preprocess, _BATCH))
        output = next(iter(baseline.outputs)) if isinstance(baseline, Answers) else ""
        now = simulated_logits(fp32, parts, output=output, threads=threads)
        then, now, same = _then(baseline, now)
        distance = sqnr_db(then, now)
        if distance >= _SAME_DB:
            return ""
        answers_differ = (
            f"the FP32 network itself does not give the baseline's answers again ({distance:.1f} "
            f"dB{same})"
        )
    if not answers_differ and not settings:
        return ""
    reasons = "; ".join(filter(None, (answers_differ, settings)))
    return (
        f"the images are prepared otherwise than for the baseline: {reasons}. That is no layer's "
        "fault; check scale, mean, std, channel order and size first."
    )


def _settings(preprocess: Preprocess) -> dict[str, object]:
    """All of them, also those that are hardly ever said."""
    return {field.name: getattr(preprocess, field.name) for field in fields(preprocess)}


def _then(
    baseline: Predictions | Answers, now: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """What the baseline kept of the first output, the same of ``now``, and what more is told."""
    if isinstance(baseline, Answers):
        return next(iter(baseline.outputs.values()))[: len(now)], kept(now), ""
    then = baseline.logits[: len(now)]
    same = float((then.argmax(axis=1) == now.argmax(axis=1)).mean())
    return then, now, f", {100 * same:.0f} % the same class"


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
