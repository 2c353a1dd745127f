"""What lies beside ``report.json`` for people who ask why: answers, flipped images, layers, times.

``convert`` writes it into ``evidence/`` of its output and the page is made from it. All but
``latency.json`` is the same in every run of the same work. Logits are not kept (they grow with
images times classes); the predicted classes and their probabilities are.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ArtefactError
from edgeres.evaluation.predictions import Predictions
from edgeres.report.pictures import save_sample
from edgeres.report.samples import SampleEvidence, read_samples, sample_name
from edgeres.system.files import write_atomic
from edgeres.system.stored_json import read_stored

if TYPE_CHECKING:
    from edgeres.backends.base import LayerInfo
    from edgeres.benchmarking.latency import Latency
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset

LATENCY = "latency.json"
RECIPE = "recipe.json"
COMPARED = "-compare.json"  # behind a target's name: what `edgeres compare --json` prints
SENSITIVITY = "-sensitivity.json"
_LOST, _GAINED = 8, 4  # example images kept of each target
_ROWS = 8192  # rows widened to float64 at a time


@dataclass(frozen=True)
class Answers:
    """What three networks answered on the same images; arrays have shape ``(N,)``.

    Attributes:
        labels: True class.
        dense: Class that the FP32 network answers; -1 where an output is NaN or Inf.
        engine: Class that the INT8 engine answers.
        dense_probability: Softmax probability that the FP32 network gives its class, float32.
        engine_probability: The engine's.
        class_names: Names of the classes, or their numbers.
    """

    labels: NDArray[np.int32]
    dense: NDArray[np.int32]
    engine: NDArray[np.int32]
    dense_probability: NDArray[np.float32]
    engine_probability: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def lost(self) -> NDArray[np.bool_]:
        """``(N,)``: only the FP32 network is right."""
        return np.asarray((self.dense == self.labels) & (self.engine != self.labels))

    @property
    def gained(self) -> NDArray[np.bool_]:
        """``(N,)``: only the engine is right."""
        return np.asarray((self.dense != self.labels) & (self.engine == self.labels))


@dataclass(frozen=True)
class Flip:
    """One image whose right answer changed, with its picture's file name where there is one."""

    index: int
    name: str
    kind: str
    label: str
    dense: str
    dense_probability: float
    engine: str
    engine_probability: float
    image: str | None


@dataclass(frozen=True)
class EngineLayer:
    """A layer of the built engine, with the multiply-adds of the ONNX nodes that it computes."""

    name: str
    op: str
    precision: str
    macs: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetEvidence:
    """What is kept of one target; parts that an output does not have are empty."""

    answers: Answers | None
    flips: tuple[Flip, ...]
    layers: tuple[EngineLayer, ...]
    samples: SampleEvidence | None = None


@dataclass(frozen=True)
class _TargetRecord:
    """``TARGET.json``."""

    layers: tuple[EngineLayer, ...] = ()
    flips: tuple[Flip, ...] = ()
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineTimesRecord:
    """One engine in ``latency.json``, as far as the page shows it.

    Attributes:
        quantiles_ms: Milliseconds that 0 to 100 % of the runs took at most.
        first_ms: The first run.
    """

    quantiles_ms: tuple[float, ...] = ()
    first_ms: float | None = None


@dataclass(frozen=True)
class TargetTimes:
    """Both engines of a target in ``latency.json``."""

    fp32: EngineTimesRecord
    int8: EngineTimesRecord


def pair_answers(dense: Predictions, engine: Predictions) -> Answers:
    """The answers of the FP32 network and of an engine on the same images.

    Args:
        dense: Of the FP32 network that the user brought.
        engine: Of the INT8 engine.
    """
    names = dense.class_names or tuple(str(number) for number in range(dense.classes))
    return Answers(
        labels=dense.labels.astype(np.int32),
        dense=dense.predicted.astype(np.int32),
        engine=engine.predicted.astype(np.int32),
        dense_probability=_top_probability(dense),
        engine_probability=_top_probability(engine),
        class_names=names,
    )


def write_target(
    folder: Path,
    target: str,
    *,
    layers: Sequence[LayerInfo],
    macs_by_node: Mapping[str, int],
    answers: Answers | None,
    images: Dataset,
    preprocess: Preprocess,
) -> None:
    """Writes ``TARGET.json``, ``TARGET.npz`` and the flipped images of one target.

    Args:
        folder: The ``evidence`` folder.
        target: Name of the target.
        layers: Layers of the built engine.
        macs_by_node: Multiply-adds by ONNX node, which weigh the layers.
        answers: ``None`` where the engine did not run here.
        images: The validation images.
        preprocess: How an image becomes what the network sees; the pictures show that.

    Raises:
        StorageError: The folder cannot be written.
    """
    flips: tuple[Flip, ...] = ()
    if answers is not None:
        flips = _flips(folder, answers, images, preprocess)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            labels=answers.labels,
            dense=answers.dense,
            engine=answers.engine,
            dense_probability=answers.dense_probability,
            engine_probability=answers.engine_probability,
        )
        write_atomic(folder / f"{target}.npz", buffer.getvalue())
    record = {
        "layers": [
            {
                **asdict(layer),
                "time_ms": None,
                "macs": sum(macs_by_node.get(n, 0) for n in _of(layer)),
            }
            for layer in layers
        ],
        "flips": [asdict(flip) for flip in flips],
        "class_names": list(answers.class_names) if answers is not None else [],
    }
    write_atomic(folder / f"{target}.json", (json.dumps(record, indent=1) + "\n").encode())


def latency_record(fp32: Latency, int8: Latency) -> dict[str, dict[str, object]]:
    """Both measurements of a target with their whole distribution, as plain JSON values."""
    return {
        name: {
            **times.to_dict(),
            "quantiles_ms": list(times.quantiles_ms),
            "round_medians_ms": list(times.round_medians_ms),
        }
        for name, times in (("fp32", fp32), ("int8", int8))
    }


def read_target(folder: Path, target: str) -> TargetEvidence:
    """Reads what :func:`write_target` wrote; empty where the output has none.

    Raises:
        ArtefactError: A file is damaged.
    """
    path = folder / f"{target}.json"
    record = read_stored(path, _TargetRecord) if path.is_file() else _TargetRecord()
    answers, arrays = None, folder / f"{target}.npz"
    if arrays.is_file():
        try:
            with np.load(arrays, allow_pickle=False) as file:
                answers = Answers(
                    **{name: file[name] for name in file.files}, class_names=record.class_names
                )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArtefactError(
                f"{arrays}: the evidence is damaged ({error}).",
                hint="Run `edgeres convert` again.",
            ) from error
    return TargetEvidence(answers, record.flips, record.layers, read_samples(folder, target))


def _of(layer: LayerInfo) -> tuple[str, ...]:
    return layer.nodes or (layer.name,)


def _flips(
    folder: Path, answers: Answers, images: Dataset, preprocess: Preprocess
) -> tuple[Flip, ...]:
    """The flips of which the network that was right had been surest, with their pictures."""
    flips = []
    names = answers.class_names
    # Where images were left out, positions no longer are the data set's.
    complete = len(images) == len(answers.labels)
    for kind, mask, sure, count in (
        ("lost", answers.lost, answers.dense_probability, _LOST),
        ("gained", answers.gained, answers.engine_probability, _GAINED),
    ):
        candidates = np.flatnonzero(mask)
        surest = candidates[np.argsort(-sure[candidates], kind="stable")][:count]
        for index in map(int, surest):
            flips.append(
                Flip(
                    index=index,
                    name=sample_name(images, index) if complete else str(index),
                    kind=kind,
                    label=names[answers.labels[index]],
                    dense=_name(names, int(answers.dense[index])),
                    dense_probability=round(float(answers.dense_probability[index]), 6),
                    engine=_name(names, int(answers.engine[index])),
                    engine_probability=round(float(answers.engine_probability[index]), 6),
                    image=save_sample(folder, index, images, preprocess) if complete else None,
                )
            )
    return tuple(flips)


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label >= 0 else "not a number"


def _top_probability(of: Predictions) -> NDArray[np.float32]:
    """``(N,)`` softmax probability of the predicted class; 0 where an output is no number."""
    top = np.zeros(of.samples, np.float32)
    for start in range(0, of.samples, _ROWS):
        rows = slice(start, start + _ROWS)
        logits = np.where(of.finite[rows, None], of.logits[rows], 0.0).astype(np.float64)
        top[rows] = 1.0 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    top[~of.finite] = 0.0
    return top
