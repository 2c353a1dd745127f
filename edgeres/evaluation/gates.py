"""Verdicts: what was measured against what is allowed, with the reason in words.

A check passes only where the measurement proves it at the asked confidence, and fails only where it
proves the opposite; in between it is inconclusive, which is not a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from edgeres.errors import UsageError
from edgeres.evaluation.compare import Comparison
from edgeres.evaluation.coverage import Coverage
from edgeres.evaluation.fusions import Fusions
from edgeres.evaluation.statistics import samples_to_decide
from edgeres.recipe.gates import Limits
from edgeres.tasks.check import Check, Outcome, Verdict, decide, not_executed

if TYPE_CHECKING:
    from edgeres.benchmarking.latency import Latency

__all__ = [
    "SAME_FOR_ALL",
    "Check",
    "Limits",
    "Outcome",
    "Verdict",
    "accuracy_check",
    "coverage_check",
    "decide",
    "deployment_checks",
    "fusion_check",
    "latency_check",
    "not_executed",
    "size_check",
    "speedup_check",
]

Measured = TypeVar("Measured")

_TOLD = 3

SAME_FOR_ALL = "answers the same for all images, and its baseline does not"


def accuracy_check(comparison: Comparison, max_drop_pp: float) -> Check:
    """Judges the drop by its confidence bounds.

    ``pass`` where the upper bound is at most the limit, ``fail`` where the lower bound is above it,
    an output is NaN or Inf, or the engine answers the same for all images or never answers a class
    that the baseline knows; else ``inconclusive`` with the number of samples that would decide.
    """
    c = comparison
    broken = c.nan_samples + c.inf_samples
    bound = f"{100 * c.confidence:.4g} % upper bound {c.drop_upper_pp:+.2f} pp"
    needed = None
    if broken:
        outcome: Outcome = "fail"
        reason = (
            f"{broken} of {c.samples} outputs are not numbers ({c.nan_samples} NaN, "
            f"{c.inf_samples} Inf): the engine is broken, this is no loss of accuracy."
        )
    elif c.constant:
        outcome = "fail"
        reason = f"the engine {SAME_FOR_ALL}, whatever its accuracy ({100 * c.top1:.2f} %)."
    elif c.silent:
        outcome = "fail"
        classes = ", ".join(repr(name) for name in c.silent[:_TOLD])
        reason = (
            f"the engine never answers {classes}, which the baseline knows, whatever the drop of "
            f"top-1 ({c.drop_pp:+.2f} pp)."
        )
    elif c.drop_upper_pp <= max_drop_pp:
        outcome = "pass"
        reason = f"top-1 drop {c.drop_pp:+.2f} pp, {bound}, within {max_drop_pp:g} pp."
    elif c.drop_lower_pp > max_drop_pp:
        outcome = "fail"
        reason = (
            f"top-1 drop {c.drop_pp:+.2f} pp, lower bound {c.drop_lower_pp:+.2f} pp, above "
            f"{max_drop_pp:g} pp."
        )
        if c.worse_classes:
            classes = ", ".join(f"{w.name} {w.drop_pp:+.1f} pp" for w in c.worse_classes[:_TOLD])
            reason += f" Classes that lose most: {classes}."
    else:
        outcome = "inconclusive"
        needed = samples_to_decide(
            c.flips.lost,
            c.flips.gained,
            c.samples,
            max_drop_pp / 100,
            confidence=c.confidence,
        )
        if c.contradictions:
            needed = None
        elif needed is not None:
            needed = max(needed, math.ceil(c.effective) + 1)
        reason = (
            f"top-1 drop {c.drop_pp:+.2f} pp could lie between {c.drop_lower_pp:+.2f} and "
            f"{c.drop_upper_pp:+.2f} pp; {c.samples} samples do not tell it from "
            f"{max_drop_pp:g} pp. " + _what_would(c, needed)
        )
    if c.repeats:
        reason += f" The bounds count that {c.repeats}."
    if c.contradictions:
        reason += f" {c.contradictions}: the bounds hold whichever label is right."
    return Check("accuracy", outcome, reason, c.drop_upper_pp, max_drop_pp, needed)


def _what_would(c: Comparison, needed: int | None) -> str:
    """What would decide an inconclusive check."""
    if c.contradictions:
        return "One label for each image would tell more."
    if needed is None:
        return "No number of samples would: the drop is the limit."
    return f"About {needed} {'different ' if c.repeats else ''}samples would."


def coverage_check(coverage: Coverage, minimum: float) -> Check:
    """Judges the share of MACs that the engine runs in INT8."""
    enough = coverage.int8_coverage >= minimum
    reason = f"{100 * coverage.int8_coverage:.1f} % of the MACs run in INT8, "
    reason += f"at least {100 * minimum:.4g} % asked."
    if not enough and coverage.float_layers:
        largest = ", ".join(layer.name for layer in coverage.float_layers[:_TOLD])
        reason += f" Largest in float: {largest}."
    return Check(
        "int8_coverage", "pass" if enough else "fail", reason, coverage.int8_coverage, minimum
    )


def fusion_check(fusions: Fusions, minimum: float) -> Check:
    """Judges the share of residual additions that run inside a convolution's layer."""
    share = fusions.adds_in_products / fusions.adds if fusions.adds else 1.0
    reason = (
        f"{fusions.adds_in_products} of {fusions.adds} additions run in a convolution, at least "
        f"{100 * minimum:.4g} % asked."
    )
    return Check("fused_adds", "pass" if share >= minimum else "fail", reason, share, minimum)


def latency_check(latency: Latency, max_p99_ms: float, confidence: float = 0.95) -> Check:
    """Judges the 99th percentile of the latency by its confidence bounds.

    ``pass`` where the upper bound is at most the limit, ``fail`` where the lower bound is above it,
    else ``inconclusive``, as where there are too few runs for a bound; doubtful times decide
    nothing. See :mod:`edgeres.benchmarking.quantile`.

    Args:
        latency: What was measured.
        max_p99_ms: Allowed, in milliseconds.
        confidence: One-sided confidence of the bounds.
    """
    bounds = latency.p99_interval(confidence)
    p99_ms = latency.p99_ms
    outcome: Outcome = "inconclusive"
    interval = f"{100 * confidence:.4g} % bounds {bounds.low_ms:.3g} to "
    interval += f"{bounds.high_ms:.3g} ms" if bounds.high_ms is not None else "unknown"
    reason = f"p99 latency {p99_ms:.3g} ms ({interval}), at most {max_p99_ms:.3g} ms asked."
    if latency.doubts:
        reason += f" The times are doubtful: {'; '.join(latency.doubts)}."
    elif bounds.low_ms > max_p99_ms:
        outcome = "fail"
    elif bounds.high_ms is None:
        reason += (
            f" {latency.runs} runs, worth {bounds.effective_runs} independent ones, are too few: "
            f"{bounds.needed_runs} are needed."
        )
    elif bounds.high_ms <= max_p99_ms:
        outcome = "pass"
    return Check("latency", outcome, reason, p99_ms, max_p99_ms)


def speedup_check(
    speedup: float,
    interval: tuple[float, float],
    minimum: float,
    doubts: Sequence[str] = (),
    yardstick: str = "fp32",
) -> Check:
    """Judges how many times faster the engine is by the confidence interval of the ratio.

    Args:
        speedup: The yardstick's p50 over the engine's.
        interval: Confidence interval of it.
        minimum: Smallest that is allowed.
        doubts: What speaks against the times.
        yardstick: Arithmetic of the float engine that it is compared with.
    """
    low, high = interval
    outcome: Outcome = "inconclusive"
    if not doubts and low >= minimum:
        outcome = "pass"
    elif not doubts and high < minimum:
        outcome = "fail"
    fast = "as fast" if yardstick == "fp32" else f"as fast as {yardstick.upper()}"
    reason = f"{speedup:.2f} times {fast} ({low:.2f} to {high:.2f}), {minimum:g} asked."
    if doubts:
        reason += f" The times are doubtful: {'; '.join(doubts)}."
    return Check("speedup", outcome, reason, speedup, minimum)


def size_check(size_bytes: int, max_size_bytes: int) -> Check:
    """Judges the size of the engine with all its files."""
    outcome: Outcome = "pass" if size_bytes <= max_size_bytes else "fail"
    reason = f"{size_bytes:,} bytes, at most {max_size_bytes:,} asked."
    return Check("size", outcome, reason, size_bytes, max_size_bytes)


def deployment_checks(
    limits: Limits,
    *,
    size_bytes: int | None = None,
    latency: Latency | None = None,
    speedup: float | None = None,
    speedup_interval: tuple[float, float] | None = None,
    doubts: Sequence[str] = (),
    yardstick: str = "fp32",
) -> list[Check]:
    """Checks of size and speed, one for each limit that is given.

    Args:
        limits: What is allowed.
        size_bytes: Size of the engine with all its files.
        latency: Its times.
        speedup: The yardstick's p50 over the engine's.
        speedup_interval: Confidence interval of it.
        doubts: What speaks against the times of either.
        yardstick: Arithmetic of the float engine that it is compared with.

    Raises:
        UsageError: A limit is given whose measurement is not.
    """
    checks = []
    if limits.max_size_bytes is not None:
        checks.append(size_check(_measured("max_size_bytes", size_bytes), limits.max_size_bytes))
    if limits.max_p99_ms is not None:
        times = _measured("max_p99_ms", latency)
        checks.append(latency_check(times, limits.max_p99_ms, limits.confidence))
    if limits.min_speedup is not None:
        interval = _measured("min_speedup", speedup_interval)
        ratio = _measured("min_speedup", speedup)
        checks.append(speedup_check(ratio, interval, limits.min_speedup, doubts, yardstick))
    return checks


def _measured(limit: str, value: Measured | None) -> Measured:
    if value is None:
        raise UsageError(
            f"{limit}: a limit was given, but nothing was measured for it.",
            hint="Measure the latency too, or leave the limit out.",
        )
    return value
