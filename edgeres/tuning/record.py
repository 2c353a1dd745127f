"""What is known of each try, and which of them are worth choosing from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgeres.report.schema import Report
from edgeres.tuning.settings import Candidate


@dataclass(frozen=True)
class Measured:
    """What a try came to, on its target.

    Attributes:
        latency_ms: p50 of the engine, in the precision that was tried.
        fp32_latency_ms: p50 of the dense FP32 network, in the same rounds.
        speedup: p50 of the fastest float engine of the dense network over the first.
        top1: Of that engine, in [0, 1].
        drop_pp: Percentage points lost against the dense FP32 network.
        drop_upper_pp: Upper confidence bound of it.
        verdict: Of all gates.
        macs_ratio: Multiply-adds kept.
        source_sha256: Of the file that the engine was built from.
    """

    latency_ms: float
    fp32_latency_ms: float
    speedup: float
    top1: float
    drop_pp: float
    drop_upper_pp: float
    verdict: str
    macs_ratio: float
    source_sha256: str = ""

    @property
    def within_budget(self) -> bool:
        """Whether the gates of the recipe passed."""
        return self.verdict == "pass"


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
        max_drop_pp: That budget.
        recipe: The winning recipe's file.
    """

    tries: tuple[Try, ...]
    pareto: tuple[Try, ...]
    best: Try
    max_drop_pp: float
    recipe: Path

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "max_drop_pp": self.max_drop_pp,
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
    if (
        part.latency_ms is None
        or part.fp32_latency_ms is None
        or part.speedup is None
        or part.top1 is None
        or part.drop_pp is None
        or part.drop_upper_pp is None
    ):
        return None
    return Measured(
        latency_ms=part.latency_ms.p50,
        fp32_latency_ms=part.fp32_latency_ms.p50,
        speedup=part.speedup,
        top1=part.top1,
        drop_pp=part.drop_pp,
        drop_upper_pp=part.drop_upper_pp,
        verdict=part.verdict,
        macs_ratio=1.0 if report.pruning is None else report.pruning.macs_ratio,
        source_sha256=source_sha256,
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
    return attempt.measured.latency_ms, attempt.measured.drop_pp
