"""What the page shows of one target, put together from its part of the report and its evidence."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeres.evaluation import run_folder
from edgeres.report import cells, charts, layer_charts
from edgeres.report.block_graph import Block, residual_blocks
from edgeres.report.confusions import (
    MOST_CLASSES,
    ClassChange,
    Confusion,
    changed_classes,
    changed_confusions,
    confusion_chart,
)
from edgeres.report.evidence import Answers, Flip, TargetEvidence, TargetTimes
from edgeres.report.page_layers import LayerRow, layer_rows, standing_out
from edgeres.report.samples import SampleEvidence, WorstSample
from edgeres.report.schema import TargetPart

_MOVES = 10  # changed answers that are listed
_MEDIA = {".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Move:
    """A change of an answer that happened to several images: names of the classes."""

    label: str
    before: str
    after: str
    count: int
    kind: Literal["lost", "gained", "still wrong"]


@dataclass(frozen=True)
class ShownFlip(Flip):
    """A flip with its picture as a data URI; ``None`` where there is none."""

    source: str | None


@dataclass(frozen=True)
class ShownSample(WorstSample):
    """A sample with its pictures as data URIs: its own, and of what both models say of it."""

    source: str | None = None
    map_sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownSpread:
    """A chart of how figures are spread, with its title."""

    title: str
    svg: str


@dataclass(frozen=True)
class ShownTarget:
    """One target on the page; charts are SVG, ``None`` where there is nothing to draw.

    Attributes:
        part: Its part of the report.
        flips: Example images whose right answer changed.
        moves: The most frequent changes of an answer.
        confusion: Chart of the confusion matrix, engine minus FP32; ``None`` with many classes.
        confusions: The confusions that change most, in place of that chart.
        classes: The classes whose right answers change most, likewise.
        known: Whether the output keeps the answers.
        changed: Images that are answered differently.
        worst: Samples on which it loses most, where the task is another one than classes.
        lost_of: What they lose of; empty where samples have no figure.
        spreads: How figures are spread over the samples, likewise.
        layers: The engine's layers.
        standing_out: What is said of those that stand out.
        weights: Chart of the weights' SQNR.
        noise: Chart of the outputs' SQNR.
        sensitivity: Chart of the layers' sensitivity.
        blocks: The residual blocks of its Q/DQ network.
        times: Its latency record; ``None`` where it did not run.
        latency: Chart of its latency.
    """

    part: TargetPart
    flips: list[ShownFlip]
    moves: list[Move]
    confusion: str | None
    confusions: list[Confusion]
    classes: list[ClassChange]
    known: bool
    changed: int
    worst: list[ShownSample]
    lost_of: str
    spreads: list[ShownSpread]
    layers: list[LayerRow]
    standing_out: list[str]
    weights: str | None
    noise: str | None
    sensitivity: str | None
    blocks: list[Block]
    times: TargetTimes | None
    latency: str | None


def shown_target(
    folder: Path, name: str, part: TargetPart, evidence: TargetEvidence, times: TargetTimes | None
) -> ShownTarget:
    """What the template shows of one target.

    Args:
        folder: Output folder of ``convert``.
        name: Name of the target.
        part: Its part of the report.
        evidence: What is kept of it.
        times: Its latency record, where it ran.

    Raises:
        ArtefactError: A file of the output is damaged.
        BackendMissingError: The packages that draw charts are not installed.
    """
    qdq = folder / name / run_folder.QDQ
    rows = layer_rows(folder, name, part, evidence)
    precisions = {row.node: row.precision for row in rows}
    answers, samples = evidence.answers, evidence.samples or SampleEvidence()
    kept = folder / run_folder.EVIDENCE
    many = answers is not None and len(answers.class_names) > MOST_CLASSES
    return ShownTarget(
        part=part,
        flips=[_flip(kept, flip) for flip in evidence.flips],
        moves=_moves(answers) if answers is not None else [],
        confusion=confusion_chart(answers) if answers is not None else None,
        confusions=changed_confusions(answers) if answers is not None and many else [],
        classes=changed_classes(answers) if answers is not None and many else [],
        known=answers is not None,
        changed=int((answers.dense != answers.engine).sum()) if answers is not None else 0,
        worst=[_sample(kept, sample) for sample in samples.worst],
        lost_of=samples.metric,
        spreads=[
            ShownSpread(found.title, charts.spread(found, cells.engine_kind(part)))
            for found in samples.spreads
        ],
        layers=rows,
        standing_out=standing_out(kept, name),
        weights=layer_charts.weight_noise(rows),
        noise=layer_charts.layer_noise(rows),
        sensitivity=layer_charts.layer_sensitivity(rows),
        blocks=residual_blocks(qdq, precisions) if qdq.is_file() else [],
        times=times,
        latency=None if times is None else charts.latency(times, cells.engine_kind(part)),
    )


def _moves(answers: Answers) -> list[Move]:
    """The most frequent changes of an answer: true class, answers before and after, images."""
    counts: dict[tuple[int, int, int], int] = {}
    flips = answers.dense != answers.engine
    for move in zip(
        answers.labels[flips].tolist(),
        answers.dense[flips].tolist(),
        answers.engine[flips].tolist(),
        strict=True,
    ):
        counts[move] = counts.get(move, 0) + 1
    names = (*answers.class_names, "not a number")  # the answer -1 is the last one
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        Move(
            label=names[label],
            before=names[before],
            after=names[after],
            count=count,
            kind="lost" if before == label else "gained" if after == label else "still wrong",
        )
        for (label, before, after), count in ordered[:_MOVES]
    ]


def _flip(folder: Path, flip: Flip) -> ShownFlip:
    return ShownFlip(**vars(flip), source=_source(folder, flip.image))


def _sample(folder: Path, sample: WorstSample) -> ShownSample:
    maps = tuple(source for name in sample.maps if (source := _source(folder, name)))
    return ShownSample(**vars(sample), source=_source(folder, sample.image), map_sources=maps)


def _source(folder: Path, image: str | None) -> str | None:
    """A picture of the evidence as a data URI; ``None`` where there is none."""
    if image is None:
        return None
    file = folder / Path(image).name
    media = _MEDIA.get(file.suffix)
    if media is None or not file.is_file():
        return None
    return f"data:{media};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"
