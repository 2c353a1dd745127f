"""Confidence interval of a latency percentile: from order statistics, for runs that depend.

Of ``n`` independent runs the number above the true ``p``-th percentile is binomial, whatever the
distribution of the times. So the run that has ``k`` slower ones is an upper confidence bound of the
percentile where so few would hardly lie above it (H. A. David and H. N. Nagaraja, "Order
Statistics", 3rd edition 2003, section 7.1). For p99 at 95 % that takes 299 runs: with fewer not
even the slowest one is a bound.

Runs are not independent: a slow moment of the machine slows several of them, a slow turn all of its
own. What they are worth is their number divided by the design effect, the variance of a share of
the runs over what it would be without dependence. It is taken as the largest of several estimates,
each for the ranks of all times and for the slowest tenth, twentieth and hundredth of them: from the
autocorrelation in the order of the runs, summed up by C. J. Geyer's initial monotone sequence
("Practical Markov Chain Monte Carlo", Statistical Science 7, 1992), and from how unevenly they fall
on the turns; and from the length of the bursts in which the runs above the bound come. The largest
one leans to caution: it asks for more runs, never for fewer.

What happens less often than a few times in the whole measurement (a pause once an hour) shows in
none of these numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TAILS = (0.10, 0.05, 0.01)
_RARE = 0.05  # above this share of slow runs they follow each other closely by chance
_CLOSE = 3  # runs between two slow ones of the same burst, and one


@dataclass(frozen=True)
class QuantileInterval:
    """One-sided bounds of a percentile of the latency, each at ``confidence``.

    Attributes:
        low_ms: The true percentile is hardly below this; 0 where nothing can be said.
        high_ms: It is hardly above this; ``None`` where there are too few runs to say so.
        confidence: One-sided confidence of each bound.
        effective_runs: Independent runs that the runs are worth.
        needed_runs: Independent runs from which on there is an upper bound.
    """

    low_ms: float
    high_ms: float | None
    confidence: float
    effective_runs: int
    needed_runs: int


def quantile_interval(
    turns: Sequence[NDArray[np.float64]], quantile: float = 0.99, confidence: float = 0.95
) -> QuantileInterval:
    """Bounds of a percentile from the times of all runs.

    Args:
        turns: For each turn its times in milliseconds, in the order of the runs.
        quantile: Which one, in (0, 1).
        confidence: One-sided confidence, in [0.5, 1).
    """
    series = np.concatenate(turns)
    slowest = np.argsort(-series, kind="stable")
    times = series[slowest[::-1]]
    runs, share = len(times), 1 - quantile
    effect = design_effect(turns)
    worth = max(1, math.floor(runs / effect))
    scale = worth / runs
    high = None
    for slower in range(math.ceil(runs * share)):
        here = max(effect, _burst(slowest[:slower]) if share <= _RARE else 1.0)
        count, trials = math.ceil(slower / here), max(1, math.floor(runs / here))
        if _at_most(count, trials, share) > 1 - confidence:
            break  # so many slower runs are nothing unlikely, nor are more of them
        high = float(times[runs - 1 - slower])
    low = next(
        (
            float(times[runs - slower])
            for slower in range(1, runs + 1)
            if slower * scale > worth * share
            and 1 - _at_most(math.floor(slower * scale) - 1, worth, share) <= 1 - confidence
        ),
        0.0,
    )
    needed = math.ceil(math.log(1 - confidence) / math.log(1 - share))
    return QuantileInterval(low, high, confidence, worth, needed)


def design_effect(turns: Sequence[NDArray[np.float64]]) -> float:
    """How many runs are worth one independent run, at least 1; see the head of this file."""
    times = np.concatenate(turns)
    if len(times) < 2 or times.min() == times.max():
        return 1.0
    _, ranks = np.unique(times, return_inverse=True)
    effects = [_autocorrelation_time(ranks.reshape(-1).astype(np.float64))]
    for tail in _TAILS:
        slow = (times > np.quantile(times, 1 - tail, method="inverted_cdf")).astype(np.float64)
        if slow.any():
            effects += [_autocorrelation_time(slow), _between_turns(slow, turns)]
    return max(1.0, *effects)


def _autocorrelation_time(series: NDArray[np.float64]) -> float:
    """One plus twice the sum of the autocorrelations, by the initial monotone sequence."""
    centred = series - series.mean()
    size = len(centred)
    spectrum = np.fft.rfft(centred, 2 * size)
    covariance = np.fft.irfft(np.square(np.abs(spectrum)))[:size]
    if covariance[0] <= 0:
        return 1.0
    pairs = covariance[: size - size % 2].reshape(-1, 2).sum(axis=1) / covariance[0]
    negative = np.flatnonzero(pairs <= 0)
    positive = pairs[: negative[0]] if len(negative) else pairs
    return float(2 * np.minimum.accumulate(positive).sum() - 1)


def _between_turns(slow: NDArray[np.float64], turns: Sequence[NDArray[np.float64]]) -> float:
    """Variance of the turns' counts of slow runs over the binomial one (Pearson's statistic)."""
    if len(turns) < 2:
        return 1.0
    sizes = np.array([len(turn) for turn in turns])
    counts = np.add.reduceat(slow, np.concatenate([[0], np.cumsum(sizes)[:-1]]))
    share = slow.mean()
    excess = np.square(counts - sizes * share) / (sizes * share * (1 - share))
    return float(excess.sum() / (len(turns) - 1))


def _burst(places: NDArray[np.intp]) -> float:
    """Mean number of the runs at these places that follow each other closely.

    The inverse of the extremal index by the runs estimator (R. L. Smith and I. Weissman,
    "Estimating the extremal index", Journal of the Royal Statistical Society B 56, 1994).
    """
    if len(places) < 2:
        return 1.0
    return len(places) / (1 + int((np.diff(np.sort(places)) > _CLOSE).sum()))


def _at_most(count: int, trials: int, share: float) -> float:
    return 0.0 if count < 0 else math.exp(log_at_most(count, trials, share))


def log_at_most(count: int, trials: int, share: float) -> float:
    """Logarithm of the probability of at most ``count`` hits in ``trials``.

    An exact sum, also where the probability is too small for a float; devices have no SciPy.
    """
    logs = math.log(share), math.log1p(-share)
    terms = [
        hits * logs[0]
        + (trials - hits) * logs[1]
        - math.lgamma(hits + 1)
        - math.lgamma(trials - hits + 1)
        for hits in range(min(count, trials) + 1)
    ]
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return min(0.0, math.lgamma(trials + 1) + total)
