"""What is known of each try, and which of them are worth choosing from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeres.report.figures import loss_of
from edgeres.report.schema import Report
from edgeres.tuning.settings import Candidate


@dataclass(frozen=True)
class Measured:
    """What a try came to, on its target.

    Attributes:
        latency_ms: p50 of the engine, in the precision that was tried.
        fp32_latency_ms: p50 of the dense FP32 network, in the same rounds.
        speedup: p50 of the fastest float engine of the dense network over the first.
        metric: The first gated figure, e.g. ``top-1``.
        unit: Of the four that follow.
        value: That figure of the engine.
        drop: How much worse it is than the dense FP32 network's; of a figure that says how near
            the two are, minus the figure.
        drop_upper: Upper confidence bound of it.
        max_drop: Largest drop that is allowed; ``None`` without a gate on it.
        verdict: Of all gates.
        macs_ratio: Multiply-adds kept.
        source_sha256: Of the file that the engine was built from.
        closeness: Whether the figure says how near the engine is to the FP32 network.
    """

    latency_ms: float
    fp32_latency_ms: float
    speedup: float
    metric: str
    unit: str
    value: float
    drop: float
    drop_upper: float
    max_drop: float | None
    verdict: str
    macs_ratio: float
    source_sha256: str = ""
    closeness: bool = False

    @property
    def within_budget(self) -> bool:
        """Whether the gates of the recipe passed."""
        return self.verdict == "pass"

    @property
    def told(self) -> str:
        """The loss with its bound, in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.closeness:
            return f"{self.metric} {self.value:.4g}{unit} (at least {-self.drop_upper:.4g})"
        return f"drop of {self.metric} {self.drop:+.3g}{unit} (at most {self.drop_upper:+.3g})"

    @property
    def asked(self) -> str:
        """What the gate asks, as the end of a sentence; empty without one."""
        if self.max_drop is None:
            return ""
        asked = f"at least {-self.max_drop:g}" if self.closeness else f"at most {self.max_drop:g}"
        return f", {asked} asked"

    @property
    def over_budget(self) -> float:
        """How far the bound is above what is allowed; above 0 wherever a gate did not pass."""
        over = 0.0 if self.max_drop is None else self.drop_upper - self.max_drop
        return over if self.within_budget else max(over, 1e-9)


@dataclass(frozen=True)
class Try:
    """One try: what was tried, and what it came to or why it failed."""

    number: int
    candidate: Candidate
    measured: Measured | None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "number": self.number,
            **asdict(self.candidate),
            **({} if self.measured is None else asdict(self.measured)),
            **({"error": self.error} if self.error else {}),
        }


@dataclass(frozen=True)
class TuneResult:
    """What a search found.

    Attributes:
        tries: All of them, in order.
        pareto: Those that no other beats in both latency and drop, the fastest first.
        best: The fastest within the accuracy budget.
        recipe: The winning recipe's file.
    """

    tries: tuple[Try, ...]
    pareto: tuple[Try, ...]
    best: Try
    recipe: Path

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "best": self.best.to_dict(),
            "recipe": str(self.recipe),
            **pareto_dict(self.tries),
        }


def measured_in(report: Report, target: str, source_sha256: str = "") -> Measured | None:
    """The figures of a target in a report; ``None`` where its engine did not run here.

    Args:
        report: What a conversion found.
        target: Its only target.
        source_sha256: Of the file that the engine was built from.
    """
    part = report.targets[target]
    loss = loss_of(part)
    if (
        loss is None
        or part.latency_ms is None
        or part.fp32_latency_ms is None
        or part.speedup is None
    ):
        return None
    return Measured(
        latency_ms=part.latency_ms.p50,
        fp32_latency_ms=part.fp32_latency_ms.p50,
        speedup=part.speedup,
        metric=loss.metric,
        unit=loss.unit,
        value=loss.value,
        drop=loss.drop,
        drop_upper=loss.upper,
        max_drop=loss.allowed,
        verdict=part.verdict,
        macs_ratio=1.0 if report.pruning is None else report.pruning.macs_ratio,
        source_sha256=source_sha256,
        closeness=loss.closeness,
    )


def pooled(tries: Sequence[Try]) -> tuple[Try, ...]:
    """The tries, equal engines with one latency: the median of what was measured of them.

    Two points may come to the same file, as where a calibrator takes the ranges of another one.
    Then chance alone tells their times apart, and must not choose between them.
    """
    groups: dict[tuple[str, str], list[Measured]] = {}
    for attempt in tries:
        if attempt.measured is not None:
            groups.setdefault(_engine(attempt, attempt.measured), []).append(attempt.measured)
    return tuple(
        attempt
        if attempt.measured is None
        else replace(
            attempt,
            measured=_with_times_of(attempt.measured, groups[_engine(attempt, attempt.measured)]),
        )
        for attempt in tries
    )


def _engine(attempt: Try, measured: Measured) -> tuple[str, str]:
    """Equal for equal engines; a file that is not known is like no other."""
    return attempt.candidate.target, measured.source_sha256 or f"try {attempt.number}"


def _with_times_of(measured: Measured, equal: Sequence[Measured]) -> Measured:
    if len(equal) == 1:
        return measured
    latency_ms, fp32_ms = (
        statistics.median(getattr(one, field) for one in equal)
        for field in ("latency_ms", "fp32_latency_ms")
    )
    return replace(
        measured, latency_ms=latency_ms, fp32_latency_ms=fp32_ms, speedup=fp32_ms / latency_ms
    )


def pareto_front(tries: Sequence[Try]) -> tuple[Try, ...]:
    """Tries that no other one beats in latency and drop together, the fastest first."""
    front: list[Try] = []
    finished = [t for t in tries if t.measured is not None]
    for attempt in sorted(finished, key=_latency_and_drop):
        if not front or _latency_and_drop(attempt)[1] < _latency_and_drop(front[-1])[1]:
            front.append(attempt)
    return tuple(front)


def pareto_dict(tries: Sequence[Try]) -> dict[str, Any]:
    """The content of ``pareto.json``, apart from the winner."""
    return {
        "pareto": [attempt.to_dict() for attempt in pareto_front(tries)],
        "trials": [attempt.to_dict() for attempt in tries],
    }


def fastest(tries: Sequence[Try]) -> Try | None:
    """The fastest try within the accuracy budget."""
    good = [t for t in tries if t.measured is not None and t.measured.within_budget]
    return min(good, key=_latency_and_drop) if good else None


def _latency_and_drop(attempt: Try) -> tuple[float, float]:
    assert attempt.measured is not None
    return attempt.measured.latency_ms, attempt.measured.drop
