"""How much worse one metric of a candidate is than the baseline's, with bounds, paired by sample.

- ``scores``: the score bound of :mod:`edgeres.tasks.mean_bound` on the paired differences; for
  right and wrong answers it is Tango's.
- ``value``: bootstrap of the figure of the whole set, both models on the same draws
  (:mod:`edgeres.tasks.resample`).
- ``closeness``: the same score bound, solved for the ratio (:mod:`edgeres.tasks.ratio_bound`).

Nothing that differs is no proof that nothing would: the bounds count a sample that was not seen,
as far off as the scores of all samples lie apart, which gives about ``2.7 / N`` of that.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, ModelError, UsageError
from edgeres.sqnr import EQUAL_DB, bounded_db, ratio_db
from edgeres.tasks.mean_bound import mean_upper, quantile
from edgeres.tasks.metric import Difference, Metric, Rows
from edgeres.tasks.ratio_bound import ratio_lower, ratio_upper
from edgeres.tasks.repeats import effective_samples
from edgeres.tasks.resample import RESAMPLES, Draws, both, draw

_FEW = 2
"""So few differing samples say nothing of how far another one could be off."""
_ONE = 1.0
"""Figures of whole sets are shares: a sample that is all wrong moves them by about ``1 / N``, also
where the set is answered perfectly and leaving samples out moves nothing."""
_FURTHER = 5.0
"""The next of ``k`` differing samples may be ``1 + 5 / k`` times as far off as the farthest."""


def difference(
    metric: Metric,
    baseline: Rows,
    candidate: Rows,
    *,
    confidence: float = 0.95,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compares two models by one metric.

    Args:
        metric: What is compared.
        baseline: What is kept of each sample of the baseline, ``(N, ...)`` each.
        candidate: The same of the candidate, for the same samples in the same order.
        confidence: One-sided confidence of the bounds, from 0.5 to below 1.
        groups: ``(N,)``: the same number means the same image; ``None`` takes each for another one.
        seed: Of the draws for a metric of the whole set.
        resamples: Draws for a metric of the whole set.

    Raises:
        DataError: Rows of different numbers of samples, or samples that lack what the metric needs.
        ModelError: The baseline's own figure is no number.
        UsageError: The confidence makes no sense, or the metric says not one way to measure it.
    """
    quantile(confidence)
    samples = _samples(metric, baseline, candidate)
    if groups is None:
        groups = np.arange(samples)
    fine = _numbers(candidate) | ~_numbers(baseline)
    broken = int((~fine).sum())
    if metric.scores is not None:
        return _of_scores(metric, baseline, candidate, fine, groups, confidence)
    if broken == samples:
        worst = -EQUAL_DB if metric.closeness else math.nan
        return Difference(
            None, worst, -worst, -worst, math.inf, 0.0, 0.0, -math.inf, math.inf, samples, broken
        )
    kept = groups[fine]
    first, second = _only(baseline, fine), _only(candidate, fine)
    if metric.closeness is not None:
        return _of_closeness(metric, first, second, samples, kept, confidence)
    return _of_value(metric, first, second, samples, kept, confidence, seed, resamples)


def _of_scores(
    metric: Metric,
    baseline: Rows,
    candidate: Rows,
    fine: NDArray[np.bool_],
    groups: NDArray[np.int64],
    confidence: float,
) -> Difference:
    assert metric.scores is not None
    before = _scores(metric, baseline)
    with np.errstate(invalid="ignore", over="ignore"):
        after = np.asarray(metric.scores(candidate), dtype=np.float64)
    if not np.isfinite(before).all():
        raise ModelError(
            f"{metric.title}: {int((~np.isfinite(before)).sum())} of {len(before)} scores of the "
            "baseline are NaN or Inf.",
            hint="Check the weights and the preprocessing of the FP32 model, and the targets.",
        )
    fine = fine & np.isfinite(after)
    seen = np.r_[before, after[fine]]
    least, most = float(seen.min()), float(seen.max())
    shares = bool(np.isin(seen, (0.0, 1.0)).all())
    if shares:
        least, most = 0.0, 1.0
    after = np.where(fine, after, least if metric.higher_is_better else most)
    lost = before - after if metric.higher_is_better else after - before
    reach = most - least
    differing = int((lost != 0).sum())
    if not shares and differing > _FEW:
        farthest = float(np.abs(lost).max())
        reach = max(farthest, min(reach, farthest * (1 + _FURTHER / differing)))
    effective = effective_samples(groups)
    factor = metric.factor
    return Difference(
        fp32=factor * float(before.mean()),
        engine=factor * float(after.mean()),
        drop=factor * float(lost.mean()),
        lower=-factor * mean_upper(-lost, reach, confidence, effective),
        upper=factor * mean_upper(lost, reach, confidence, effective),
        spread=factor * float(lost.std()),
        effective=effective,
        engine_lower=-factor * mean_upper(-after, -least, confidence, effective),
        engine_upper=factor * mean_upper(after, most, confidence, effective),
        samples=len(lost),
        broken=int((~fine).sum()),
        differing=differing,
        confidence=confidence,
    )


def _of_value(
    metric: Metric,
    baseline: Rows,
    candidate: Rows,
    samples: int,
    groups: NDArray[np.int64],
    confidence: float,
    seed: int,
    resamples: int,
) -> Difference:
    assert metric.value is not None
    sign = 1.0 if metric.higher_is_better else -1.0
    first, second = metric.value(baseline), metric.value(candidate)
    ones = np.ones(len(groups), dtype=np.int64)
    if not math.isfinite(first(ones)):
        raise DataError(
            f"{metric.title}: {len(groups)} samples lack what it needs, e.g. a class.",
            hint="Use more samples, with all classes among them.",
        )
    drawn = draw(both(first, second, sign), groups, resamples=resamples, seed=seed)
    drop, engine, fp32 = (float(value) for value in drawn.whole)
    effective = effective_samples(groups)
    lower, upper = drawn.bounds(0, confidence)
    engine_lower, engine_upper = drawn.bounds(1, confidence)
    equal = float((drawn.figures[:, 0] == 0.0).mean())
    if equal > 0.0:  # a handful of samples differ, or none
        z = quantile(confidence)
        unseen = z * z / (z * z + effective) * _reach_of(drawn, -math.log(equal))
        lower, upper = min(lower, drop - unseen), max(upper, drop + unseen)
    factor = metric.factor
    return Difference(
        fp32=factor * fp32,
        engine=factor * engine,
        drop=factor * drop,
        lower=factor * min(lower, drop),
        upper=factor * max(upper, drop),
        spread=factor * drawn.spread(0) * math.sqrt(effective),
        effective=effective,
        engine_lower=factor * min(engine_lower, engine),
        engine_upper=factor * max(engine_upper, engine),
        samples=samples,
        broken=samples - len(groups),
        confidence=confidence,
    )


def _reach_of(drawn: Draws, differing: float) -> float:
    """How far a sample that was not seen could move a share, times the number of samples.

    Args:
        drawn: Drop, the candidate's figure, the baseline's.
        differing: About how many samples differ: none of ``k`` is in ``exp(-k)`` of the draws.
    """
    wrong, seen = _ONE, float(drawn.reach[0])
    if differing > _FEW and seen > 0.0:
        wrong = min(wrong, seen * (1 + _FURTHER / differing))
    return max(float(drawn.reach[2]), wrong)


def _of_closeness(
    metric: Metric,
    baseline: Rows,
    candidate: Rows,
    samples: int,
    groups: NDArray[np.int64],
    confidence: float,
) -> Difference:
    assert metric.closeness is not None
    signal, noise = metric.closeness(baseline, candidate)
    if not np.isfinite(signal).all() or signal.sum() <= 0.0:
        raise ModelError(
            f"{metric.title}: the baseline's outputs are all zero, or no numbers.",
            hint="Check the weights and the preprocessing of the FP32 model.",
        )
    signal, noise = signal / signal.mean(), np.minimum(noise / signal.mean(), 1e30)
    effective = effective_samples(groups)
    ratio = float(noise.mean())
    most = ratio_upper(noise, signal, confidence, effective)
    least = ratio_lower(noise, signal, confidence, effective)
    figure, low, high = (bounded_db(ratio_db(1.0, value)) for value in (ratio, most, least))
    share = noise / ratio - signal if ratio > 0.0 else np.zeros(len(noise))
    return Difference(
        fp32=None,
        engine=figure,
        drop=-figure,
        lower=-high,
        upper=-low,
        spread=10 / math.log(10) * float(share.std()),
        effective=effective,
        engine_lower=low,
        engine_upper=high,
        samples=samples,
        broken=samples - len(groups),
        confidence=confidence,
    )


def _scores(metric: Metric, rows: Rows) -> NDArray[np.float64]:
    assert metric.scores is not None
    return np.asarray(metric.scores(rows), dtype=np.float64)


def _samples(metric: Metric, baseline: Rows, candidate: Rows) -> int:
    """Number of samples of both.

    Raises:
        DataError: They are not the same, or there are none.
        UsageError: The metric says not exactly one way to measure it.
    """
    ways = (metric.scores, metric.value, metric.closeness)
    if sum(way is not None for way in ways) != 1:
        raise UsageError(
            f"metric {metric.name!r}: expected one of scores, value and closeness.",
            hint="Give exactly one of them.",
        )
    counts = {len(row) for rows in (baseline, candidate) for row in rows.values()}
    if len(counts) != 1 or 0 in counts:
        raise DataError(
            f"{metric.title}: expected the same samples of both models, got "
            f"{sorted(counts) or 'none'}.",
            hint="Make both on the same data set.",
        )
    return counts.pop()


def _numbers(rows: Rows) -> NDArray[np.bool_]:
    """``(N,)``: samples without NaN and Inf."""
    fine = np.ones(len(next(iter(rows.values()))), dtype=np.bool_)
    for row in rows.values():
        if row.dtype.kind == "f":
            fine &= np.isfinite(row).reshape(len(row), -1).all(axis=1)
    return fine


def _only(rows: Rows, fine: NDArray[np.bool_]) -> Rows:
    return rows if fine.all() else {name: row[fine] for name, row in rows.items()}
