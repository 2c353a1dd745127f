"""The order of the search, on engines whose noise and time are sums that are known here.

The search on real engines is in tests/pipeline/test_mixed_precision.py.
"""

from __future__ import annotations

import math

import pytest

from edgeres.errors import DataError, GateError
from edgeres.quantization.mixed_precision import Budget, Measured, search
from edgeres.quantization.sensitivity import Effect, NodeSensitivity, Sensitivity

#: Node to (noise, milliseconds that it costs in float, share of the MACs).
LAYERS = {
    "big": (8e-4, 1.0, 0.5),
    "cheap": (6e-4, 0.1, 0.05),
    "small": (2e-4, 0.1, 0.05),
    "tiny": (1e-5, 0.0, 0.4),
}
FP32 = Effect(200.0, 1.0, 0.9)


def effect(noise: float) -> Effect:
    return Effect(-10 * math.log10(noise) if noise else 200.0, 1 - 100 * noise, 0.9 - 10 * noise)


def run(budget: Budget, *, least: float = 0.0, fp32: Effect = FP32, asked: list | None = None):
    def answers(kept: frozenset[str]) -> Measured:
        if asked is not None:
            asked.append(kept)
        noise = sum(noise for name, (noise, _, _) in LAYERS.items() if name not in kept)
        return Measured(effect(noise), 1 - sum(LAYERS[name][2] for name in kept))

    nodes = tuple(
        NodeSensitivity(name, "Conv", 1, effect(noise)) for name, (noise, _, _) in LAYERS.items()
    )
    return search(
        budget,
        fp32,
        answers,
        lambda: Sensitivity("rules", 10, 0.9, effect(1.61e-3), nodes),
        lambda sets: [1 + sum(LAYERS[name][1] for name in kept) for kept in sets],
        min_int8_coverage=least,
        candidates=4,
    )


def test_nothing_stays_float_where_int8_is_good_enough() -> None:
    asked: list[frozenset[str]] = []
    found = run(Budget(min_sqnr_db=27.5), asked=asked)
    assert found.keep_float == ()
    assert found.int8_ms is None
    assert asked == [frozenset()]


def test_noise_saved_per_millisecond_decides() -> None:
    found = run(Budget(min_sqnr_db=29.5))
    assert found.keep_float == ("cheap",)
    assert found.mixed_ms == pytest.approx(1.1)
    assert found.trials[-1].keep_float == ("cheap",)
    assert found.trials[-1].broken == ""


def test_what_later_layers_make_needless_is_taken_back() -> None:
    found = run(Budget(min_sqnr_db=33.0))
    # cheap, small and tiny come first, then big; without small and tiny the budget holds as well.
    assert "big" in found.keep_float
    assert set(found.keep_float) == {"big", "cheap", "small"} - {"small"}
    assert all(trial.broken == "" for trial in found.trials[-1:])


def test_int8_coverage_is_respected() -> None:
    with pytest.raises(GateError, match=r"no engine with 60 % of its MACs .* SQNR 3[01]"):
        run(Budget(min_sqnr_db=33.0), least=0.6)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (Budget(min_agreement=0.88), {"cheap"}),
        (Budget(max_drop_pp=1.1, reference_top1=0.9), {"cheap"}),
        (Budget(max_drop_pp=1.1, min_sqnr_db=30.8, reference_top1=0.9), {"cheap", "small"}),
    ],
)
def test_every_budget_is_kept(budget, kept) -> None:
    assert set(run(budget).keep_float) == kept


def test_a_budget_beyond_float_is_told_at_once() -> None:
    asked: list[frozenset[str]] = []
    with pytest.raises(GateError, match=r"even with all layers in float .* drops 3\.00 pp"):
        run(Budget(max_drop_pp=1.0, reference_top1=0.93), asked=asked)
    assert asked == []


def test_a_drop_needs_labels() -> None:
    with pytest.raises(DataError, match="needs labels"):
        run(Budget(max_drop_pp=1.0), fp32=Effect(200.0, 1.0, None))
