"""The verdict on any metric: its loss against the float network, and an absolute floor.

A check passes only where the bounds prove that it holds at the asked confidence, and fails only
where they prove the opposite; in between it is inconclusive, with the number of samples that would
decide.

Over several metrics, passing needs no correction: each has to be proven, and all wrong at once is
no likelier than one (R. L. Berger, Technometrics 24, 1982). Failing needs one: the more metrics,
the likelier that one of them looks bad by chance. So where several are gated, losses are tested in
Holm's order (S. Holm, Scand. J. Statistics 6, 1979), each at a stricter confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgeres.tasks.check import Check, Outcome
from edgeres.tasks.mean_bound import quantile
from edgeres.tasks.metric import Difference, Metric

POWER = 0.9
"""Probability with which the number of samples that is told would decide."""
_SAME = 1e-12


@dataclass(frozen=True)
class Gate:
    """One metric that is judged.

    Attributes:
        metric: What is judged.
        difference: How the candidate differs, at the confidence that was asked.
        max_drop: Loss that is allowed, in the metric's unit; for a metric of closeness the least
            figure. ``None`` for the metric's own.
        at: The same difference at another ``confidence``, for several gates.
    """

    metric: Metric
    difference: Difference
    max_drop: float | None = None
    at: Callable[..., Difference] | None = None


def metric_check(metric: Metric, difference: Difference, max_drop: float | None = None) -> Check:
    """Judges the loss of one metric by its confidence bounds.

    ``pass`` where the upper bound is at most the limit, ``fail`` where the lower bound is above it
    or an output is NaN or Inf, else ``inconclusive`` with the number of samples that would decide.

    Args:
        metric: What was measured.
        difference: How the candidate differs from the baseline.
        max_drop: Loss that is allowed, in the metric's unit; for a metric of closeness the least
            figure. ``None`` for the metric's own.

    Returns:
        The check; its ``value`` is the upper bound of the loss, for a metric of closeness the lower
        bound of the figure.
    """
    d = difference
    allowed = metric.max_drop if max_drop is None else max_drop
    close = metric.closeness is not None
    limit = -allowed if close else allowed
    value = -d.upper if close else d.upper
    if d.broken:
        return Check(metric.name, "fail", _broken(d), None, allowed)
    figure, unit = _figure(metric, d), metric.unit
    low, high = (-d.upper, -d.lower) if close else (d.lower, d.upper)
    sign = "" if close else "+"
    safe, bad = ("lower", "upper") if close else ("upper", "lower")
    safe_bound, bad_bound = (low, high) if close else (high, low)
    percent = f"{100 * d.confidence:.4g} %"
    needed = None
    if d.upper <= limit:
        outcome: Outcome = "pass"
        reason = f"{figure}, {percent} {safe} bound {_number(safe_bound, unit, sign)}, "
        reason += ("at least " if close else "within ") + f"{_unit(allowed, unit)}."
    elif d.lower > limit:
        outcome = "fail"
        reason = f"{figure}, {percent} {bad} bound {_number(bad_bound, unit, sign)}, "
        reason += ("below " if close else "above ") + f"{_unit(allowed, unit)}."
    else:
        outcome = "inconclusive"
        needed = samples_that_decide(d, limit)
        reason = (
            f"{figure} could lie between {_number(low, '', sign)} and {_number(high, unit, sign)}; "
            f"{d.samples} samples do not tell it from {_unit(allowed, unit)}. {_what_would(needed)}"
        )
    return Check(metric.name, outcome, reason + _repeats(d), value, allowed, needed)


def floor_check(metric: Metric, difference: Difference, floor: float) -> Check:
    """Judges the figure of the candidate itself: at least the floor, or at most where less is good.

    Args:
        metric: What was measured.
        difference: How the candidate differs, with the bounds of its own figure.
        floor: In the metric's unit.
    """
    if metric.closeness is not None:  # its figure is the one thing that there is
        return metric_check(metric, difference, floor)
    d = difference
    name = f"{metric.name}_floor"
    if d.broken:
        return Check(name, "fail", _broken(d), None, floor)
    higher = metric.higher_is_better
    safe, bad = (d.engine_lower, d.engine_upper) if higher else (d.engine_upper, d.engine_lower)
    sign = 1.0 if higher else -1.0
    asked = f"{'at least' if higher else 'at most'} {_unit(floor, _own_unit(metric))} asked"
    figure = f"{metric.title} {_number(d.engine, _own_unit(metric))}"
    bound = f"{100 * d.confidence:.4g} % {{}} bound {{}}"
    needed = None
    words = ("lower", "upper") if higher else ("upper", "lower")
    if sign * safe >= sign * floor:
        outcome: Outcome = "pass"
        told = bound.format(words[0], _number(safe, _own_unit(metric)))
        reason = f"{figure}, {told}, {asked}."
    elif sign * bad < sign * floor:
        outcome = "fail"
        told = bound.format(words[1], _number(bad, _own_unit(metric)))
        reason = f"{figure}, {told}, {asked}."
    else:
        outcome = "inconclusive"
        gap = sign * (d.engine - floor)
        z = quantile(d.confidence)
        wide = abs(d.engine - (safe if gap > 0 else bad))
        root = (z + quantile(POWER)) / z * wide / abs(gap) if abs(gap) > _SAME and z > 0 else 0.0
        needed = _at_least(d, d.effective * root * root) if root else None
        reason = (
            f"{figure} could lie between {_number(min(safe, bad), '')} and "
            f"{_number(max(safe, bad), _own_unit(metric))}; {asked}. {_what_would(needed)}"
        )
    return Check(name, outcome, reason + _repeats(d), safe, floor, needed)


def metric_checks(gates: Sequence[Gate]) -> list[Check]:
    """Judges several metrics together: failures at a confidence that counts how many there are.

    A loss that is above its limit by itself, and not any more when all metrics are counted, is
    inconclusive.
    """
    checks = [metric_check(gate.metric, gate.difference, gate.max_drop) for gate in gates]
    failing = [
        index
        for index, check in enumerate(checks)
        if check.outcome == "fail" and not gates[index].difference.broken
    ]
    failing.sort(key=lambda index: -_excess(gates[index]))
    chance = False
    for rank, index in enumerate(failing):
        gate = gates[index]
        at = gate.difference
        if gate.at is not None and rank < len(gates) - 1:
            at = gate.at(confidence=1 - (1 - at.confidence) / (len(gates) - rank))
        chance = chance or at.lower <= _limit(gate)
        if chance:
            checks[index] = replace(
                checks[index],
                outcome="inconclusive",
                reason=f"{checks[index].reason} Of {len(gates)} metrics one may look so by chance.",
                samples_to_decide=samples_that_decide(at, _limit(gate)),
            )
    return checks


def samples_that_decide(difference: Difference, limit: float) -> int | None:
    """Independent samples at which a bound would decide, if what was seen is the truth.

    The bound is ``z s / sqrt(n) + a / n`` away from the drop, of which ``s`` is known and ``a``,
    from skewness and from what was not seen, is what is left of today's bound.

    Args:
        difference: What was seen.
        limit: Loss that is allowed.

    Returns:
        The number, for a power of 90 %; ``None`` where the drop is the limit.
    """
    d = difference
    distance = abs(limit - d.drop)
    if distance < _SAME or d.effective <= 0:
        return None
    z = quantile(d.confidence)
    wide = (d.upper - d.drop) if limit > d.drop else (d.drop - d.lower)
    rest = max(0.0, d.effective * wide - z * d.spread * math.sqrt(d.effective))
    linear = (z + quantile(POWER)) * d.spread
    root = (linear + math.sqrt(linear * linear + 4 * rest * distance)) / (2 * distance)
    return _at_least(d, root * root)


def _at_least(difference: Difference, number: float) -> int:
    """More than there are: these did not decide."""
    return max(math.ceil(number), math.ceil(difference.effective) + 1)


def _limit(gate: Gate) -> float:
    allowed = gate.metric.max_drop if gate.max_drop is None else gate.max_drop
    return -allowed if gate.metric.closeness is not None else allowed


def _excess(gate: Gate) -> float:
    """How far the loss is above the limit, in widths of its bound."""
    d = gate.difference
    width = d.drop - d.lower
    return (d.drop - _limit(gate)) / width if width > 0 else math.inf


def _figure(metric: Metric, d: Difference) -> str:
    """The figure or its loss, said first in a verdict."""
    if metric.closeness is not None:
        return f"{metric.title} {_number(d.engine, metric.unit)}"
    what = f"{metric.title} drop" if metric.higher_is_better else metric.title
    return f"{what} {_number(d.drop, metric.unit, '+')}"


def _own_unit(metric: Metric) -> str:
    """Of the figure itself: a share is in percent, its loss in percentage points."""
    return "%" if metric.unit == "pp" else metric.unit


def _number(value: float, unit: str, sign: str = "") -> str:
    """With two decimals, or three digits where it is small."""
    text = f"{value:{sign}.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:{sign}.2g}"
    return f"{text} {unit}".rstrip()


def _unit(value: float, unit: str) -> str:
    return f"{value:g} {unit}".rstrip()


def _broken(d: Difference) -> str:
    return (
        f"{d.broken} of {d.samples} outputs are NaN or Inf: the engine is broken, this is no loss "
        "of accuracy."
    )


def _what_would(needed: int | None) -> str:
    if needed is None:
        return "No number of samples would: it is the limit."
    return f"About {needed} different samples would."


def _repeats(d: Difference) -> str:
    """How many samples are the same again, where more than a hundredth are."""
    if d.effective >= 0.99 * (d.samples - d.broken):
        return ""
    return f" The bounds count that the {d.samples} samples are worth {d.effective:.0f}."
