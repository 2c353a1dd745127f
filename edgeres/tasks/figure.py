"""A metric of one model on a set of samples, without bounds: for searches, not for verdicts."""

from __future__ import annotations

import math

import numpy as np

from edgeres.sqnr import EQUAL_DB, bounded_db, ratio_db
from edgeres.tasks.metric import Metric, Rows

_BAD = 1e30
"""Stands for infinitely bad where JSON must hold it."""


def figure(metric: Metric, reference: Rows, rows: Rows) -> float:
    """The metric in its unit.

    Args:
        metric: What is measured.
        reference: What is kept of each sample of the float network.
        rows: The same of the model.

    Returns:
        The figure. A sample whose score is no number has the worst of all scores; a figure of the
        whole set that is no number is as bad as can be.
    """
    worst = -_BAD if metric.higher_is_better else _BAD
    if metric.scores is not None:
        with np.errstate(invalid="ignore", over="ignore"):
            before = np.asarray(metric.scores(reference), dtype=np.float64)
            scores = np.asarray(metric.scores(rows), dtype=np.float64)
        seen = np.concatenate((before, scores))
        seen = seen[np.isfinite(seen)]
        if not len(seen):
            return worst
        least = float(seen.min() if metric.higher_is_better else seen.max())
        return metric.factor * float(np.where(np.isfinite(scores), scores, least).mean())
    if metric.closeness is not None:
        signal, noise = metric.closeness(reference, rows)
        if not np.isfinite(noise).all():
            return -EQUAL_DB
        return bounded_db(ratio_db(float(signal.sum()), float(noise.sum())))
    assert metric.value is not None
    with np.errstate(invalid="ignore", over="ignore"):
        found = metric.value(rows)(np.ones(len(next(iter(rows.values()))), dtype=np.int64))
    return metric.factor * float(found) if math.isfinite(found) else worst
