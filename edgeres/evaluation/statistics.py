"""Statistics of paired right and wrong answers: pure functions of counts.

Two models answer the same ``samples`` questions. ``lost`` counts those that only the baseline gets
right, ``gained`` those that only the candidate gets right; the others say nothing about the
difference. The drop in accuracy is ``(lost - gained) / samples``.

The bounds on the drop invert Tango's score test (T. Tango, "Equivalence test and confidence
interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17,
1998). A one-sided 95 % upper bound covers a drop that is not negative in 94.8 to 97.2 % of all
samples of 1,000, with 1 to 4 % of discordant pairs, and in 94.9 to 95.6 % of all samples of 10,000:
exact sums, not a simulation, held by ``tests/evaluation/test_statistics.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from edgeres.benchmarking.quantile import log_at_most
from edgeres.errors import UsageError

_BISECTIONS = 60  # halves the interval [-1, 1] down to double precision


def wilson_interval(
    successes: int, trials: int, confidence: float = 0.95, *, effective: float | None = None
) -> tuple[float, float]:
    """Two-sided score interval of one proportion (E. B. Wilson, JASA 22, 1927).

    Args:
        successes: Right answers, between 0 and ``trials``.
        trials: All answers, at least 1.
        confidence: Two-sided confidence from 0.5 to below 1.
        effective: Independent answers that they are worth; all of them where not given.

    Returns:
        Lower and upper limit of the proportion, in [0, 1].

    Raises:
        UsageError: The counts or the confidence make no sense.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise UsageError(
            f"expected 0 <= successes <= trials and trials >= 1, got {successes} of {trials}.",
            hint="Count at least one sample.",
        )
    z = _quantile(confidence, sides=2)
    rate, count = successes / trials, trials if effective is None else effective
    centre = rate + z * z / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mcnemar_exact(
    lost: int, gained: int, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> float:
    """P-value of "both models are equally often right" from the discordant pairs alone.

    The exact form of McNemar's test (Psychometrika 12, 1947): under equality each discordant pair
    is a fair coin. ``greater`` tests against "the candidate loses more than it gains".

    Raises:
        UsageError: A count is negative.
    """
    _check_counts(lost, gained, max(lost + gained, 1))
    if alternative == "greater":
        return math.exp(log_heads_at_least(lost, lost + gained))
    return min(1.0, 2 * math.exp(log_heads_at_least(max(lost, gained), lost + gained)))


def drop_upper(
    lost: int,
    gained: int,
    samples: int,
    confidence: float = 0.95,
    *,
    effective: float | None = None,
) -> float:
    """One-sided upper confidence bound of the drop in accuracy, as a share in [-1, 1].

    Args:
        lost: Samples that only the baseline gets right.
        gained: Samples that only the candidate gets right.
        samples: All samples.
        confidence: One-sided confidence from 0.5 to below 1.
        effective: Independent samples that they are worth, where some belong together: the counts
            divided by the design effect (J. N. K. Rao and A. J. Scott, Biometrics 48, 1992).

    Raises:
        UsageError: The counts or the confidence make no sense.
    """
    _check_counts(lost, gained, samples)
    z = _quantile(confidence, sides=1)
    low, high = (lost - gained) / samples, 1.0
    root = math.sqrt(samples if effective is None else effective)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _score(lost / samples, gained / samples, middle) * root > -z:
            low = middle
        else:
            high = middle
    return high


def drop_lower(
    lost: int,
    gained: int,
    samples: int,
    confidence: float = 0.95,
    *,
    effective: float | None = None,
) -> float:
    """One-sided lower confidence bound of the drop, as :func:`drop_upper`.

    Raises:
        UsageError: The counts or the confidence make no sense.
    """
    return -drop_upper(gained, lost, samples, confidence, effective=effective)


def samples_to_decide(
    lost: int,
    gained: int,
    samples: int,
    max_drop: float,
    *,
    confidence: float = 0.95,
    power: float = 0.9,
) -> int | None:
    """Samples at which the bound would decide, if the observed rates are the true ones.

    The sample size of the score test (J.-M. Nam, Biometrics 53, 1997): with the standard deviation
    ``s0`` of one pair under "the drop is ``max_drop``" and ``s1`` under the observed rates, the
    bound falls on the observed side with probability ``power`` from
    ``((z_confidence * s0 + z_power * s1) / (max_drop - drop))**2`` samples on.

    Args:
        lost: Samples that only the baseline gets right.
        gained: Samples that only the candidate gets right.
        samples: All samples of the observation.
        max_drop: The allowed drop as a share, not in percentage points.
        confidence: One-sided confidence of the bound.
        power: Probability that the bound decides.

    Returns:
        The number of samples, or ``None`` where no number would do: the observed drop is the
        allowed one.

    Raises:
        UsageError: The counts, the confidence or the power make no sense.
    """
    _check_counts(lost, gained, samples)
    b, c = lost / samples, gained / samples
    distance = max_drop - (b - c)
    if abs(distance) < 1e-12:
        return None
    null = math.sqrt(_null_variance(b, c, max_drop))
    observed = math.sqrt(max(0.0, b + c - (b - c) ** 2))
    root = (_quantile(confidence, sides=1) * null + _quantile(power, sides=1) * observed) / distance
    return max(1, math.ceil(root * root))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for many tests at once (S. Holm, Scand. J. Statistics 6, 1979).

    Rejecting those that are at most ``alpha`` keeps the probability of any wrong rejection at most
    ``alpha``, whatever the dependence between the tests.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = largest
    return adjusted


def log_heads_at_least(heads: int, tosses: int) -> float:
    """Logarithm of the probability that a fair coin falls on heads at least so often."""
    return log_at_most(tosses - heads, tosses, 0.5)


def _score(b: float, c: float, drop: float) -> float:
    """Tango's statistic divided by sqrt(samples), for rates ``b`` (lost) and ``c`` (gained)."""
    deviation = b - c - drop
    variance = _null_variance(b, c, drop)
    if variance <= 0.0:
        return math.copysign(math.inf, deviation) if deviation else 0.0
    return deviation / math.sqrt(variance)


def _null_variance(b: float, c: float, drop: float) -> float:
    """Variance of one pair at the likeliest rates whose difference is ``drop``.

    The likeliest rate of gains ``q`` solves ``2 q^2 + B q + C = 0`` with
    ``B = (2 - b + c) drop - b - c`` and ``C = -c drop (1 - drop)`` (Tango 1998).
    """
    linear = (2 - b + c) * drop - b - c
    constant = -c * drop * (1 - drop)
    gains = (math.sqrt(max(0.0, linear * linear - 8 * constant)) - linear) / 4
    return 2 * gains + drop * (1 - drop)


def _quantile(confidence: float, *, sides: Literal[1, 2]) -> float:
    if not 0.5 <= confidence < 1.0:
        raise UsageError(
            f"expected a confidence or power from 0.5 to below 1, got {confidence}.",
            hint="The usual confidence is 0.95.",
        )
    return NormalDist().inv_cdf(confidence if sides == 1 else (1 + confidence) / 2)


def _check_counts(lost: int, gained: int, samples: int) -> None:
    if min(lost, gained) < 0 or samples < 1 or lost + gained > samples:
        raise UsageError(
            "expected 0 <= lost + gained <= samples and samples >= 1, got "
            f"{lost} lost and {gained} gained of {samples}.",
            hint="Count the pairs of one common set of samples.",
        )
