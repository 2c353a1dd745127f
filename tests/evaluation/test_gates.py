"""Verdicts: pass and fail only with proof, and what would decide in between."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from edgeres.benchmarking.latency import Latency
from edgeres.benchmarking.stability import doubts_of_both
from edgeres.errors import UsageError
from edgeres.evaluation.compare import compare
from edgeres.evaluation.coverage import Coverage, FloatLayer
from edgeres.evaluation.gates import (
    Check,
    Limits,
    accuracy_check,
    coverage_check,
    decide,
    deployment_checks,
    latency_check,
    not_executed,
    size_check,
    speedup_check,
)


def test_a_small_proven_drop_passes(answer) -> None:
    check = accuracy_check(compare(answer(), answer([1])), 1.0)
    assert check.outcome == "pass"
    assert check.value is not None
    assert check.value <= 1.0
    assert "within 1 pp" in check.reason


def test_a_large_proven_drop_fails_and_names_the_class(answer) -> None:
    check = accuracy_check(compare(answer(), answer(range(7, 400, 10))), 0.5)
    assert check.outcome == "fail"
    assert "above 0.5 pp" in check.reason
    assert "Classes that lose most: 7 +40.0 pp" in check.reason


def test_noise_is_inconclusive_with_the_samples_that_decide(answer) -> None:
    comparison = compare(answer(range(10)), answer(range(5, 16)))
    check = accuracy_check(comparison, 0.5)
    assert check.outcome == "inconclusive"
    assert check.samples_to_decide is not None
    assert check.samples_to_decide > 1000
    assert f"About {check.samples_to_decide} samples would" in check.reason
    assert decide([check]).exit_code == 1


def test_a_drop_above_the_limit_fails_only_with_proof(answer) -> None:
    comparison = compare(answer(), answer(range(8)))
    assert comparison.drop_pp > 0.5 > comparison.drop_lower_pp
    assert accuracy_check(comparison, 0.5).outcome == "inconclusive"


def test_a_drop_at_the_limit_is_never_decided(answer) -> None:
    check = accuracy_check(compare(answer(), answer(range(5))), 0.5)
    assert check.outcome == "inconclusive"
    assert check.samples_to_decide is None
    assert "No number of samples" in check.reason


def test_nan_is_a_failure_of_the_engine_not_of_accuracy(answer) -> None:
    logits = answer().logits.copy()
    logits[3] = np.nan
    check = accuracy_check(compare(answer(), dataclasses.replace(answer(), logits=logits)), 50.0)
    assert check.outcome == "fail"
    assert "1 of 1000 outputs are not numbers (1 NaN, 0 Inf)" in check.reason


def test_coverage_gate() -> None:
    low = Coverage(0.8, 100, (FloatLayer("head", 20, "float32", "so it is"),))
    assert coverage_check(low, 0.8).outcome == "pass"
    failed = coverage_check(low, 0.9)
    assert failed.outcome == "fail"
    assert "80.0 %" in failed.reason
    assert "head" in failed.reason


def _times(runs: int = 1000, *, doubts: tuple[str, ...] = (), slow: int = 0) -> Latency:
    """1 ms for each run, but for some of 3 ms spread over all turns."""
    times = np.ones(runs)
    if slow:
        times[:: runs // slow] = 3.0
    p99 = float(np.quantile(times, 0.99, method="inverted_cdf"))
    turns = tuple(np.array_split(times, 20))
    medians = tuple(map(float, map(np.median, turns)))
    return Latency(
        1.0, 1.0, p99, None, 1.0, 1.0, runs, 1, 1000.0, 2.0, 5, None, medians, doubts,
        turns_ms=turns,
    )  # fmt: skip


def test_latency_gate() -> None:
    assert latency_check(_times(), 1.0).outcome == "pass"
    assert latency_check(_times(), 0.9).outcome == "fail"
    doubted = latency_check(_times(doubts=("other work kept 1.4 of 2 CPUs busy",)), 2.0)
    assert doubted.outcome == "inconclusive"
    assert "other work" in doubted.reason


def test_doubts_of_the_yardstick_are_said_to_be_its() -> None:
    shared = "other work kept 1.4 of 2 CPUs busy"
    found = doubts_of_both(("spread over 24%", shared), (shared, "spread over 43%"))
    assert found == ("spread over 24%", shared, "of FP32, spread over 43%")


def test_latency_gate_needs_enough_runs() -> None:
    few = latency_check(_times(298), 2.0)
    assert few.outcome == "inconclusive"
    assert "298 runs, worth 298 independent ones, are too few: 299 are needed" in few.reason
    assert latency_check(_times(299), 2.0).outcome == "pass"
    assert latency_check(_times(299), 2.0, confidence=0.99).outcome == "inconclusive"


def test_latency_gate_is_unsure_near_the_limit() -> None:
    near = _times(slow=8)  # 0.8 % of the runs: the measured p99 is 1 ms, the true one may be 3 ms
    assert near.p99_ms == 1.0
    unsure = latency_check(near, 2.0)
    assert unsure.outcome == "inconclusive"
    assert "95 % bounds 1 to 3 ms" in unsure.reason
    assert latency_check(near, 3.0).outcome == "pass"


def test_speedup_gate_needs_proof() -> None:
    assert speedup_check(2.0, (1.9, 2.1), 1.5).outcome == "pass"
    assert speedup_check(1.6, (1.4, 1.8), 1.5).outcome == "inconclusive"
    assert speedup_check(1.4, (1.3, 1.6), 1.5).outcome == "inconclusive"
    assert speedup_check(1.2, (1.1, 1.3), 1.5).outcome == "fail"
    assert speedup_check(1.2, (1.1, 1.3), 1.5, ["busy"]).outcome == "inconclusive"
    assert speedup_check(2.0, (1.9, 2.1), 1.5, ["busy"]).outcome == "inconclusive"


def test_size_gate() -> None:
    assert size_check(1000, 1000).outcome == "pass"
    assert size_check(1001, 1000).outcome == "fail"
    assert "1,001 bytes" in size_check(1001, 1000).reason


def test_only_limits_that_are_given_are_checked() -> None:
    assert deployment_checks(Limits(), size_bytes=1, latency=_times()) == []
    limits = Limits(max_p99_ms=2.0, min_speedup=1.5, max_size_bytes=1000)
    checks = deployment_checks(
        limits,
        size_bytes=10,
        latency=_times(slow=100),
        speedup=2.0,
        speedup_interval=(1.9, 2.1),
    )
    assert {c.name: c.outcome for c in checks} == {
        "size": "pass",
        "latency": "fail",
        "speedup": "pass",
    }
    with pytest.raises(UsageError, match="max_p99_ms: a limit was given"):
        deployment_checks(limits, size_bytes=10)


def test_the_worst_check_decides() -> None:
    good, doubt, bad = (
        Check("a", "pass", "fine."),
        Check("b", "inconclusive", "who knows."),
        Check("c", "fail", "broken."),
    )
    assert decide([good]).outcome == "pass"
    assert decide([good]).exit_code == 0
    assert decide([good, doubt]).outcome == "inconclusive"
    assert decide([doubt, bad, good]).outcome == "fail"
    assert decide([doubt, bad, good]).reason == "broken."
    assert decide([bad]).exit_code == 1
    assert json.loads(json.dumps(decide([good, bad]).to_dict()))["checks"][1]["name"] == "c"


def test_nothing_asked_is_not_a_pass() -> None:
    with pytest.raises(UsageError, match="at least one check"):
        decide([])


def test_not_executed_breaks_no_limit_and_is_no_pass() -> None:
    verdict = not_executed("no GPU here")
    assert (verdict.outcome, verdict.exit_code) == ("not_executed", 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_drop": math.nan},
        {"max_drop": 1e10},
        {"confidence": 1.0},
        {"confidence": 0.3},
        {"min_int8_coverage": 1.1},
        {"max_p99_ms": -1.0},
        {"min_speedup": math.nan},
    ],
)
def test_senseless_limits_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(bad))):
        Limits(**bad)


def test_limits_are_named_and_never_mixed_up() -> None:
    """A limit of milliseconds once stood where a share of additions was expected."""
    positions = (0.5, 0.95, None, 20.0)
    with pytest.raises(TypeError, match="positional"):
        Limits(*positions)
