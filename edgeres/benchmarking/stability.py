"""Reasons to doubt a measurement, in words a person can act on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_MAX_DRIFT = 0.10  # between the medians of the first and the last third of the turns
_MAX_SPREAD = 0.20  # between the 10th and 90th percentile of the turns' medians
_MAX_TAIL = 3.0  # p90 over p50
_MAX_OTHER = 0.10  # share of the usable CPUs busy with other work
_MAX_CLOCK = 0.15  # between the 10th and 90th percentile of the fixed work's times
_P99_RUNS = 100
_LEAST_TURNS = 10


def engine_doubts(
    medians_ms: Sequence[float], times_ms: NDArray[np.float64], *, warm: bool
) -> list[str]:
    """What speaks against one engine's times.

    Args:
        medians_ms: Median of each turn, in order.
        times_ms: ``(runs,)`` all times, sorted.
        warm: Whether the warm-up reached a steady state.
    """
    doubts = []
    if not warm:
        doubts.append("the warm-up ended before the times settled")
    if len(times_ms) < _P99_RUNS:
        doubts.append(f"{len(times_ms)} runs are too few for a 99th percentile")
    if len(medians_ms) < _LEAST_TURNS:
        doubts.append(
            f"{len(medians_ms)} turns are too few to tell how they differ, at least "
            f"{_LEAST_TURNS} would do"
        )
    third = max(1, len(medians_ms) // 3)
    early, late = float(np.median(medians_ms[:third])), float(np.median(medians_ms[-third:]))
    if early > 0 and abs(late / early - 1) > _MAX_DRIFT:
        doubts.append(
            f"the times drifted by {late / early - 1:+.0%} from the first to the last third "
            "(throttling, or load that came or went)"
        )
    spread = _spread(medians_ms)
    if spread > _MAX_SPREAD:
        doubts.append(f"the medians of the turns spread over {spread:.0%}")
    p50, p90 = np.percentile(times_ms, [50, 90])
    if p90 > _MAX_TAIL * p50:
        doubts.append(f"one run in ten takes over {p90 / p50:.1f} times the median")
    return doubts


def doubts_of_both(
    engine: Sequence[str], yardstick: Sequence[str], arithmetic: str = "fp32"
) -> tuple[str, ...]:
    """What speaks against the times of two engines; what only the float one has is said to be its.

    Args:
        engine: Doubts about the engine.
        yardstick: Doubts about the float engine that it is compared with.
        arithmetic: Of that engine.
    """
    name = arithmetic.upper()
    return (*engine, *(f"of {name}, {doubt}" for doubt in yardstick if doubt not in engine))


def machine_doubts(
    other_cpus: float | None, usable_cpus: int, fixed_work_ns: Sequence[int]
) -> list[str]:
    """What speaks against the machine's quiet.

    Args:
        other_cpus: CPUs busy with other work, ``None`` where not known.
        usable_cpus: CPUs that the engines may use.
        fixed_work_ns: Times of the same fixed work, one for each round.
    """
    doubts = []
    if other_cpus is not None and other_cpus > _MAX_OTHER * usable_cpus:
        doubts.append(f"other work kept {other_cpus:.1f} of {usable_cpus} CPUs busy")
    spread = _spread(fixed_work_ns)
    if spread > _MAX_CLOCK:
        doubts.append(f"the speed of the CPU itself changed by {spread:.0%}")
    return doubts


def _spread(values: Sequence[float]) -> float:
    """Distance of the 10th and the 90th percentile, as a share of the median."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return float((high - low) / middle) if middle > 0 else 0.0
