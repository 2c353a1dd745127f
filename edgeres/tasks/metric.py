"""One figure of merit over a set of samples: what it is, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = Mapping[str, NDArray[Any]]
"""What is kept of each sample, by name; the first dimension of each array is that of the samples.

What a model answered and what was right stand side by side in it: the latter under the names that
:meth:`edgeres.tasks.task.Task.rows` gives them.
"""

Counts = NDArray[np.int64]
"""``(N,)``: how often each sample is taken, so that a figure can be had of a resampled set."""

Whole = Callable[[Counts], float]
"""Figure of a whole set from its samples' counts; NaN where they lack what it needs."""


@dataclass(frozen=True)
class Chance:
    """What is reached without looking at the samples: a baseline near it knows nothing.

    Attributes:
        figure: From the rows to the figure of the best single answer, in the metric's own range;
            NaN where that is as good as an answer can be.
        hint: What to look at where the baseline is no better.
    """

    figure: Callable[[Rows], float]
    hint: str


@dataclass(frozen=True)
class Metric:
    """One figure of merit.

    Exactly one of ``scores``, ``value`` and ``closeness`` is given.

    Attributes:
        name: Its key in ``report.json`` and in ``gates: {metric: ...}``, e.g. ``mae``.
        title: What people call it, in the middle of a sentence, e.g. ``mean absolute error``.
        unit: Unit of the figure as it is shown, e.g. ``pp`` or ``dB``; empty where it has none.
        higher_is_better: Which way is good.
        max_drop: Loss against the FP32 network, in ``unit``, that is allowed where nobody says
            otherwise; for ``closeness``, the least figure that is allowed.
        scores: Figure of each sample, ``(N,) float64``, whose mean is the metric.
        value: The metric of the whole set, a share in [0, 1], where it is no mean: from the rows to
            a function of the samples' counts. It is called once for a model, so that it can sort
            and sum beforehand, and the function some thousand times.
        closeness: How near the second rows are to the first, those of the FP32 network: two
            ``(N,) float64`` arrays, signal and noise of each sample, whose sums' ratio is shown in
            decibels. Needs no labels.
        factor: From the figure to what is shown: 100 for shares in percent.
        chance: What is reached without looking; at most one metric of a task has it.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    max_drop: float
    scores: Callable[[Rows], NDArray[np.float64]] | None = None
    value: Callable[[Rows], Whole] | None = None
    closeness: Callable[[Rows, Rows], tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None
    factor: float = 1.0
    chance: Chance | None = None


@dataclass(frozen=True)
class Difference:
    """One metric of two models on the same samples, in the unit that is shown.

    Attributes:
        fp32: Of the baseline; ``None`` for a metric of closeness.
        engine: Of the candidate.
        drop: How much worse the candidate is, negative where it is better; for a metric of
            closeness, minus the figure itself, so that less is better everywhere.
        lower: One-sided lower confidence bound of ``drop``.
        upper: One-sided upper confidence bound of ``drop``.
        spread: Standard deviation of one sample's share of the drop, for the number of samples
            that would decide.
        effective: Independent samples that the bounds count.
        engine_lower: One-sided lower confidence bound of ``engine``, for absolute floors.
        engine_upper: One-sided upper confidence bound of ``engine``.
        samples: All samples.
        broken: Samples whose outputs are NaN or Inf of the candidate and numbers of the baseline.
            Each counts as the worst score that any sample has; for ``value`` and ``closeness`` they
            are left out. An engine that has any fails, whatever the figure.
        differing: Samples whose score differs, where the metric is a mean of scores; else ``None``.
        confidence: Of the bounds.
    """

    fp32: float | None
    engine: float
    drop: float
    lower: float
    upper: float
    spread: float
    effective: float
    engine_lower: float
    engine_upper: float
    samples: int
    broken: int = 0
    differing: int | None = None
    confidence: float = 0.95
