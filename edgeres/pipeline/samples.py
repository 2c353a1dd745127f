"""The samples on which an engine loses most, answered once more to be shown to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, BuildConfig
from edgeres.data.batches import numbered_batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.evaluation.passes import answer
from edgeres.graph.session import open_session, run_session
from edgeres.pipeline.engines import BuiltTarget
from edgeres.pipeline.keys import path_key
from edgeres.report.pictures import save_class_map, save_sample
from edgeres.report.samples import (
    SampleEvidence,
    Spread,
    WorstSample,
    sample_name,
    spread_of,
    write_samples,
)
from edgeres.sqnr import bounded_db, ratio_db
from edgeres.tasks.answers import Answers
from edgeres.tasks.metric import Metric
from edgeres.tasks.task import Task

_WORST = 8


def write_worst_samples(
    folder: Path,
    built: BuiltTarget,
    onnx: Path,
    task: Task,
    answers: tuple[Answers, Answers],
    validation: Dataset,
    preprocess: Preprocess,
) -> None:
    """Writes what the page shows of single samples; see :mod:`edgeres.report.samples`.

    Args:
        folder: The ``evidence`` folder.
        built: The engine.
        onnx: The FP32 network that the user brought.
        task: What the outputs mean.
        answers: Of that network and of the engine, on the same samples.
        validation: The samples.
        preprocess: How a sample becomes numbers.

    Raises:
        StorageError: The folder cannot be written.
    """
    dense, engine = answers
    reads = tuple(dense.outputs)
    task = task.for_outputs(reads)
    noise = _noise(dense, engine)
    lost, metric = _losses(task, dense, engine)
    if lost is not None and lost.max() <= 0:  # no sample is worse: the noise tells more
        lost, metric = None, None
    order = np.lexsort((-noise, np.zeros(len(noise)) if lost is None else -lost))
    places = [int(place) for place in order if noise[place] > 0][:_WORST]
    # Where images were left out, positions no longer are the data set's.
    known = places if len(validation) == dense.samples else []
    outputs = _outputs(built, onnx, validation, preprocess, known)
    worst = []
    for place in places:
        said = [{name: of[name] for name in reads} for of in outputs.get(place, ())]
        texts = [task.text(of, dense.class_names) for of in said] or ["", ""]
        image, maps = None, []
        if said:
            image = save_sample(folder, place, validation, preprocess)
            for model, of in zip(("fp32", built.target.name), said, strict=True):
                classes = task.class_map(of)
                if classes is not None:
                    maps.append(save_class_map(folder, f"{place}-{model}", classes))
        worst.append(
            WorstSample(
                index=place,
                name=sample_name(validation, place) if said else str(place),
                fp32=texts[0],
                engine=texts[1],
                lost=None if lost is None else round(float(lost[place]), 6),
                sqnr_db=_decibels(noise[place]),
                image=image,
                maps=tuple(maps),
            )
        )
    told = "" if metric is None else f"{metric.title}{f', {metric.unit}' if metric.unit else ''}"
    write_samples(
        folder,
        built.target.name,
        SampleEvidence(told, tuple(worst), _spreads(task, dense, engine, noise)),
    )


def _losses(
    task: Task, dense: Answers, engine: Answers
) -> tuple[NDArray[np.float64] | None, Metric | None]:
    """``(N,)``: how much worse the engine is on each sample, by the first metric that has such."""
    by_name = {metric.name: metric for metric in task.metrics}
    ordered = sorted(by_name.values(), key=lambda metric: metric.name not in task.gated)
    for metric in ordered:
        if metric.scores is not None:
            sign = metric.factor if metric.higher_is_better else -metric.factor
            with np.errstate(invalid="ignore"):
                lost = sign * (metric.scores(dense.rows) - metric.scores(engine.rows))
            return np.nan_to_num(lost, nan=0.0, posinf=0.0, neginf=0.0), metric
    return None, None


def _noise(dense: Answers, engine: Answers) -> NDArray[np.float64]:
    """``(N,)``: noise over the set's mean signal, the mean over the outputs."""
    noise = np.zeros(dense.samples)
    for name, values in dense.outputs.items():
        one, two = values.astype(np.float64), engine.outputs[name].astype(np.float64)
        mean = max(float(np.square(one).sum(axis=1).mean()), 1e-30)
        noise += np.square(one - two).sum(axis=1) / mean
    return np.where(np.isfinite(noise), noise / len(dense.outputs), np.inf)


def _decibels(noise: float) -> float | None:
    return round(bounded_db(ratio_db(1.0, noise)), 2) if np.isfinite(noise) else None


def _outputs(
    built: BuiltTarget,
    onnx: Path,
    validation: Dataset,
    preprocess: Preprocess,
    places: Sequence[int],
) -> Mapping[int, tuple[dict[str, Array], dict[str, Array]]]:
    """All outputs of both models, ``(1, ...)`` each, by the sample's place."""
    if not places:
        return {}
    target, session = built.target, open_session(onnx.read_bytes())
    found: dict[int, tuple[dict[str, Array], dict[str, Array]]] = {}
    config = BuildConfig(target.device, options=path_key(target))
    with target.backend.load(built.engine, config) as runner:
        for inputs, (place,) in numbered_batches(validation, preprocess, 1, indices=places):
            found[int(place)] = {**run_session(session, inputs)}, answer(runner, inputs)
    return found


def _spreads(
    task: Task,
    dense: Answers,
    engine: Answers,
    noise: NDArray[np.float64],
) -> tuple[Spread, ...]:
    """How the task's own numbers, figures of single samples, and noise are spread."""
    models = {"FP32": dense.rows, "engine": engine.rows}
    spreads = []
    own = {model: task.distributions(rows) for model, rows in models.items()}
    for title in own["FP32"]:
        spreads.append(spread_of(title, {model: of[title] for model, of in own.items()}))
    for metric in task.metrics:
        if metric.scores is None:
            continue
        scores = {m: metric.factor * metric.scores(rows) for m, rows in models.items()}
        if len(np.unique(scores["FP32"])) > 2:  # right or wrong has no spread
            title = f"{metric.title} of each sample"
            spreads.append(spread_of(title, {m: {"": values} for m, values in scores.items()}))
    heard = noise[np.isfinite(noise) & (noise > 0)]
    if len(heard):
        levels = -10 * np.log10(heard)
        spreads.append(spread_of("SQNR of each sample's outputs, dB", {"engine": {"": levels}}))
    return tuple(spread for spread in spreads if spread is not None)
