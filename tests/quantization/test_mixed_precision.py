"""The order of the search, on engines whose noise and time are sums that are known here.

The search on real engines is in tests/pipeline/test_mixed_precision.py.
"""

from __future__ import annotations

import math

import pytest

from edgeres.errors import DataError, GateError
from edgeres.quantization.effect import Effect
from edgeres.quantization.mixed_precision import Budget, Measured, search
from edgeres.quantization.sensitivity import NodeSensitivity, Sensitivity

#: Node to (noise, milliseconds that it costs in float, share of the MACs).
LAYERS = {
    "big": (8e-4, 1.0, 0.5),
    "cheap": (6e-4, 0.1, 0.05),
    "small": (2e-4, 0.1, 0.05),
    "tiny": (1e-5, 0.0, 0.4),
}
FP32 = Effect(200.0, 1.0, 90.0)


def effect(noise: float) -> Effect:
    return Effect(-10 * math.log10(noise) if noise else 200.0, 1 - 100 * noise, 90 - 1000 * noise)


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
        lambda: Sensitivity("rules", 10, "top-1", "pp", 90.0, effect(1.61e-3), nodes),
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
        (Budget(max_drop=1.1, reference=90.0), {"cheap"}),
        (Budget(max_drop=1.1, min_sqnr_db=30.8, reference=90.0), {"cheap", "small"}),
    ],
)
def test_every_budget_is_kept(budget, kept) -> None:
    assert set(run(budget).keep_float) == kept


def test_a_budget_beyond_float_is_told_at_once() -> None:
    asked: list[frozenset[str]] = []
    with pytest.raises(GateError, match=r"even with all layers in float .* drops 3 pp"):
        run(Budget(max_drop=1.0, reference=93.0), asked=asked)
    assert asked == []


def test_a_drop_needs_labels() -> None:
    with pytest.raises(DataError, match="needs targets"):
        run(Budget(max_drop=1.0), fp32=Effect(200.0, 1.0, None))


def on(
    noise_of, budget: Budget, *, fused=(), least: float = 0.0, time_of=None, candidates: int = 6
):
    """A search on an engine whose noise is any function of what stays float."""
    names = ("a", "b", "c", "d", "e", "f")

    def answers(keep_float: frozenset[str]) -> Measured:
        return Measured(effect(noise_of(keep_float)), 1 - 0.1 * len(keep_float))

    nodes = tuple(NodeSensitivity(name, "Conv", 1, effect(1e-4)) for name in names)
    return search(
        budget,
        FP32,
        answers,
        lambda: Sensitivity("rules", 10, "top-1", "pp", 90.0, effect(1e-3), nodes),
        lambda sets: [1 + (time_of or (lambda s: 0.1 * len(s)))(keep) for keep in sets],
        min_int8_coverage=least,
        candidates=candidates,
        fused=fused,
    )


def test_layers_that_help_only_together_are_found() -> None:
    """Each of the two alone makes the engine worse."""

    def noise(keep: frozenset[str]) -> float:
        return {0: 1e-3, 1: 1.2e-3, 2: 1e-4}[len(keep & {"b", "e"})]

    assert set(on(noise, Budget(min_sqnr_db=35)).keep_float) == {"b", "e"}


def test_what_did_not_help_alone_is_tried_again_after_another() -> None:
    def noise(keep: frozenset[str]) -> float:
        if "f" not in keep:
            return 1e-3 + 1e-5 * len(keep)  # everything but f makes it worse at first
        return 5e-4 - 1e-4 * len(keep & {"a", "b", "c", "d"})

    assert set(on(noise, Budget(min_sqnr_db=39.9)).keep_float) == {"a", "b", "c", "d", "f"}


def test_three_that_help_only_together_are_found_from_the_other_end() -> None:
    def noise(keep: frozenset[str]) -> float:
        return 1e-5 if keep >= {"a", "c", "e"} else 1e-3 + 1e-5 * len(keep)

    assert set(on(noise, Budget(min_sqnr_db=45)).keep_float) == {"a", "c", "e"}


def test_every_budget_that_some_set_holds_is_reached() -> None:
    """Random engines with effects of pairs; every set of six layers is looked at beside."""
    from itertools import chain, combinations

    import numpy as np

    for seed in range(40):
        generator = np.random.default_rng(seed)
        alone = dict(zip("abcdef", generator.uniform(0, 2e-4, 6), strict=True))
        pairs = {frozenset(p): generator.normal(0, 8e-5) for p in combinations("abcdef", 2)}

        def noise(keep: frozenset[str], alone=alone, pairs=pairs) -> float:
            total = sum(v for k, v in alone.items() if k not in keep)
            return max(total + sum(v for p, v in pairs.items() if not p & keep), 1e-9) + 1e-6

        sets = chain.from_iterable(combinations("abcdef", n) for n in range(7))
        best = min(noise(frozenset(s)) for s in sets)
        found = on(noise, Budget(min_sqnr_db=-10 * math.log10(best) - 1.5))
        assert noise(frozenset(found.keep_float)) <= best * 10**0.15


def test_a_sum_and_its_convolution_are_one_candidate() -> None:
    """Apart, each needs a conversion that costs more than it saves; the time shows it."""

    def time(keep: frozenset[str]) -> float:
        return 0.1 * len(keep) + 2.0 * (len(keep & {"c", "d"}) == 1)

    def noise(keep: frozenset[str]) -> float:
        return 1e-3 - 1e-4 * len(keep)

    found = on(noise, Budget(min_sqnr_db=30.9), fused=[("c", "d"), ("x", "y")], time_of=time)
    assert ("c", "d") in [candidate.nodes for candidate in found.candidates]
    assert all({"x", "y"}.isdisjoint(candidate.nodes) for candidate in found.candidates)
    assert len({"c", "d"} & set(found.keep_float)) != 1


def test_a_little_noise_in_the_times_changes_nothing() -> None:
    import numpy as np

    def noise(keep: frozenset[str]) -> float:
        return 1e-3 - 1.5e-4 * len(keep)

    generator = np.random.default_rng(0)
    found = {
        on(
            noise,
            Budget(min_sqnr_db=32),
            time_of=lambda keep: 0.11 * len(keep) + generator.normal(0, 0.002),
        ).keep_float
        for _ in range(20)
    }
    assert len(found) == 1


def test_the_hint_names_only_what_can_help() -> None:
    def noise(keep: frozenset[str]) -> float:
        return 1e-3 - 1e-5 * len(keep)

    with pytest.raises(GateError, match="keeps a, b, c, d, e, f in float: SQNR 30") as error:
        on(noise, Budget(min_sqnr_db=40))
    assert error.value.hint == "Allow more."
    with pytest.raises(GateError) as error:
        on(noise, Budget(min_sqnr_db=40), least=0.75, candidates=4)
    assert error.value.hint.startswith("Lower gates.min_int8_coverage or allow more or raise")
