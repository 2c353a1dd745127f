"""What INT8 changes in the confusion matrix: as a picture of few classes, as a ranking of many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeres.report.evidence import Answers
from edgeres.report.svg import altair, data, one_width

MOST_CLASSES = 20  # in a confusion matrix that a person can read
_RANKED = 15


@dataclass(frozen=True)
class Confusion:
    """One cell of the confusion matrix off its diagonal: images of one class taken for another."""

    label: str
    answer: str
    fp32: int
    engine: int

    @property
    def change(self) -> int:
        """Images that the engine confuses more than FP32."""
        return self.engine - self.fp32


@dataclass(frozen=True)
class ClassChange:
    """How many images of one class each network answers rightly."""

    label: str
    images: int
    fp32: int
    engine: int

    @property
    def change(self) -> int:
        """Right answers that the engine gains; below 0 where it loses some."""
        return self.engine - self.fp32


def changed_confusions(answers: Answers) -> list[Confusion]:
    """The confusions that INT8 changes most, the largest change in front.

    Answers that are no number are no confusion with a class.
    """
    names = answers.class_names
    counts: dict[tuple[int, int], list[int]] = {}
    for column, predicted in enumerate((answers.dense, answers.engine)):
        wrong = (predicted != answers.labels) & (predicted >= 0)
        pairs = np.stack([answers.labels[wrong], predicted[wrong]], axis=1)
        for (label, answer), count in zip(
            *np.unique(pairs, axis=0, return_counts=True), strict=True
        ):
            counts.setdefault((int(label), int(answer)), [0, 0])[column] = int(count)
    found = [
        Confusion(names[label], names[answer], *both) for (label, answer), both in counts.items()
    ]
    changed = [each for each in found if each.change]
    return sorted(changed, key=lambda each: (-abs(each.change), -each.engine))[:_RANKED]


def changed_classes(answers: Answers) -> list[ClassChange]:
    """The classes whose right answers change most, those that lose in front."""
    count = len(answers.class_names)
    images, fp32, engine = (
        np.bincount(answers.labels[mask], minlength=count)
        for mask in (
            np.ones(len(answers.labels), bool),
            answers.dense == answers.labels,
            answers.engine == answers.labels,
        )
    )
    changed = np.flatnonzero(fp32 != engine).tolist()
    ordered = sorted(changed, key=lambda k: (-abs(engine[k] - fp32[k]), engine[k] - fp32[k]))
    return [
        ClassChange(answers.class_names[k], int(images[k]), int(fp32[k]), int(engine[k]))
        for k in ordered[:_RANKED]
    ]


def confusion_chart(answers: Answers) -> str | None:
    """Images that each cell of the confusion matrix gains or loses by INT8; SVG.

    ``None`` where there are too many classes to read, or nothing changed.
    """
    alt = altair()
    names = answers.class_names
    if len(names) > MOST_CLASSES:
        return None
    rows = [
        {"label": names[label], "answer": names[answer], "change": count, "size": abs(count)}
        | {"sign": f"{'more' if count > 0 else 'fewer'} images", "text": f"{count:+d}"}
        for (label, answer), count in _changes(answers).items()
    ]
    if not rows:
        return None
    across = alt.X("answer:N", sort=list(names), title="answer").scale(domain=list(names))
    down = alt.Y("label:N", sort=list(names), title="true class").scale(domain=list(names))
    every = {"labelOverlap": False, "labelLimit": 120}
    base = alt.Chart(data(rows)).encode(across.axis(labelAngle=-60, **every), down.axis(**every))
    cells = base.mark_rect().encode(
        alt.Color("sign:N", title=None)
        .scale(domain=["more images", "fewer images"], range=["var(--c1)", "var(--c0)"])
        .legend(orient="top"),
        alt.Opacity("size:Q", legend=None).scale(range=[0.18, 0.55]),
    )
    texts = base.mark_text(color="var(--ink)", fontSize=11).encode(text="text:N")
    return one_width((cells + texts).properties(width=alt.Step(30), height=alt.Step(24)))


def _changes(answers: Answers) -> dict[tuple[int, int], int]:
    """(True class, answer) to the images that the cell gains by INT8, cells of no change left out.

    Answers that are no number belong to no cell.
    """
    changes: dict[tuple[int, int], int] = {}
    flips = answers.dense != answers.engine
    for label, before, after in zip(
        answers.labels[flips].tolist(),
        answers.dense[flips].tolist(),
        answers.engine[flips].tolist(),
        strict=True,
    ):
        for answer, step in ((before, -1), (after, 1)):
            if answer >= 0:
                changes[label, answer] = changes.get((label, answer), 0) + step
    return {cell: count for cell, count in sorted(changes.items()) if count}
