from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.quantization import rounding, rounding_pairs
from edgeres.quantization.pairing import pairings
from edgeres.quantization.rounding import column_order, learn_rounding
from edgeres.quantization.rounding_objective import Samples, objective
from edgeres.quantization.saturation import PAIR_LIMIT, move_pairs

KERNELS = [(), (1, 1), (3, 3), (1, 2)]


def problem(seed: int, rows: int, channels: int, kernel, *, scale: float = 40.0):
    """Weights in units of their scale, and the covariance of correlated inputs."""
    random = np.random.default_rng(seed)
    columns = channels * int(np.prod(kernel))
    exact = np.clip(random.standard_normal((rows, columns)) * scale, -127, 127)
    mixed = random.standard_normal((3 * columns + 1, columns)) @ random.standard_normal(
        (columns, columns)
    )
    return exact, mixed.T @ mixed / len(mixed)


def nearest(exact, hessian, packings):
    """What a layer has before: nearest integers, offending pairs moved."""
    wanted = exact.astype(np.float32)
    whole = np.rint(wanted)
    move_pairs(whole, wanted, np.diag(hessian).astype(np.float32), packings)
    return whole.astype(np.float64)


def cost(whole, exact, hessian):
    return np.einsum("mk,kl,ml->m", whole - exact, hessian, whole - exact)


@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 5),
    channels=st.integers(1, 9),
    kernel=st.sampled_from(KERNELS),
    saturating=st.booleans(),
    scale=st.sampled_from([1.0, 40.0, 120.0]),
)
@settings(max_examples=60)
def test_never_worse_than_nearest_never_over_a_limit(
    seed, rows, channels, kernel, saturating, scale
):
    exact, hessian = problem(seed, rows, channels, kernel, scale=scale)
    packings = pairings(exact.shape[1], kernel) if saturating else ()
    start = nearest(exact, hessian, packings)
    found = learn_rounding(start, exact, hessian, packings)
    np.testing.assert_array_equal(found.whole, np.rint(found.whole))
    assert np.abs(found.whole).max(initial=0) <= 127
    assert (found.after <= found.before).all()
    for pairs in packings:
        a, b = found.whole[:, pairs[:, 0]], found.whole[:, pairs[:, 1]]
        assert (np.maximum(a, 0) + np.maximum(b, 0)).max(initial=0) <= PAIR_LIMIT
        assert (np.minimum(a, 0) + np.minimum(b, 0)).min(initial=0) >= -PAIR_LIMIT
    # The objective is the squared output error with a hundredth of the mean energy on top.
    damped = hessian + 0.01 * np.trace(hessian) / len(hessian) * np.eye(len(hessian))
    np.testing.assert_allclose(found.after, cost(found.whole, exact, damped), rtol=1e-4, atol=1e-4)
    assert (found.before + 1e-9 >= cost(found.whole, exact, hessian)).all()


def test_errors_that_cancel_are_found():
    # Both inputs are always equal, so only the sum of the two weights matters.
    exact = np.array([[10.4, 20.4]])
    found = learn_rounding(np.rint(exact), exact, np.ones((2, 2)))
    assert found.whole.sum() == 31
    assert found.after[0] < 0.2 * found.before[0]


def test_inputs_without_correlation_keep_nearest_rounding():
    exact = np.random.default_rng(0).uniform(-100, 100, (4, 12))
    found = learn_rounding(np.rint(exact), exact, np.diag(np.arange(1.0, 13.0)))
    np.testing.assert_array_equal(found.whole, np.rint(exact))


def test_a_pair_at_its_limit_trades():
    # Neither weight may grow, yet the first is worth far more than the second.
    exact = np.array([[100.0, 60.0]])
    hessian = np.diag([100.0, 1.0])
    found = learn_rounding(np.array([[64.0, 64.0]]), exact, hessian, pairings(2, ()))
    assert found.whole.sum() == PAIR_LIMIT
    assert found.whole[0, 0] >= 99


@pytest.mark.parametrize("saturating", [False, True])
def test_as_good_as_trying_everything_on_small_problems(saturating):
    """The search is a heuristic; over many small problems it must come near the optimum."""
    found_cost = best_cost = nearest_cost = 0.0
    for seed in range(12):
        exact, hessian = problem(seed, 1, 4, (), scale=60.0)
        packings = pairings(4, ()) if saturating else ()
        start = nearest(exact, hessian, packings)
        found = learn_rounding(start, exact, hessian, packings)
        around = [np.floor(start[0, k]) + np.arange(-4, 5) for k in range(4)]
        grid = np.array(list(itertools.product(*around)))
        allowed = np.abs(grid).max(axis=1) <= 127
        for pairs in packings:
            a, b = grid[:, pairs[:, 0]], grid[:, pairs[:, 1]]
            allowed &= ((a * b <= 0) | (np.abs(a + b) <= PAIR_LIMIT)).all(axis=1)
        best_cost += cost(grid[allowed], exact, hessian).min()
        found_cost += cost(found.whole, exact, hessian)[0]
        nearest_cost += cost(start, exact, hessian)[0]
    assert found_cost - best_cost < 0.4 * (nearest_cost - best_cost)


def fed_back(exact, hessian):
    """Columns rounded one by one, the last first, in float64 (QuIP, equation 2)."""
    size = len(hessian)
    damped = hessian + 0.01 * np.trace(hessian) / size * np.eye(size)
    lower = np.linalg.cholesky(damped)
    lower /= np.diag(lower)
    whole = np.zeros_like(exact)
    for k in reversed(range(size)):
        errors = whole[:, k + 1 :] - exact[:, k + 1 :]
        whole[:, k] = np.clip(np.rint(exact[:, k] - errors @ lower[k + 1 :, k]), -127, 127)
    return whole, damped


def descended(whole, exact, damped):
    """One round of coordinate descent, one column after the other, with no gradient kept."""
    whole = whole.copy()
    for k in range(len(damped)):
        slope = (whole - exact) @ damped[:, k]
        whole[:, k] = np.clip(np.rint(whole[:, k] - slope / damped[k, k]), -127, 127)
    return whole


@pytest.mark.parametrize("columns", [1, 15, 17, 255, 300])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("numbers", [1 << 15, 1])
def test_blocks_give_what_column_by_column_gives(columns, groups, numbers, monkeypatch):
    """Columns beyond one block, groups together: the same integers but for ties of float32."""
    monkeypatch.setattr(rounding, "_NARROW_NUMBERS", numbers)
    parts = [problem(seed, 4, columns, ()) for seed in range(groups)]
    exact = np.concatenate([part for part, _ in parts])
    hessian = np.stack([part for _, part in parts])
    order = column_order(hessian)
    assert groups > 1 or columns < 17 or (order != np.arange(columns)).any()
    plain, descents = [], []
    for weights, products in parts:
        whole, damped = fed_back(weights[:, order], products[np.ix_(order, order)])
        found = np.empty_like(whole), np.empty_like(whole)
        found[0][:, order] = whole
        found[1][:, order] = descended(whole, weights[:, order], damped)
        plain.append(found[0])
        descents.append(found[1])
    for sweeps, expected in ((0, plain), (1, descents)):
        found = learn_rounding(np.rint(exact) + 9, exact, hessian, sweeps=sweeps)
        same = found.whole == np.concatenate(expected)
        assert same.mean() > 0.99


def test_equal_inputs_give_equal_integers():
    exact, hessian = problem(3, 8, 8, (3, 3))
    packings = pairings(72, (3, 3))
    start = nearest(exact, hessian, packings)
    first, second = (learn_rounding(start, exact, hessian, packings).whole for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_dead_input_changes_nothing():
    exact, _ = problem(0, 3, 4, ())
    found = learn_rounding(np.rint(exact), exact, np.zeros((4, 4)))
    np.testing.assert_array_equal(found.whole, np.rint(exact))


def few(seed, patches, columns):
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((patches, columns)) @ random.standard_normal((columns, columns))
    exact = np.clip(random.standard_normal((6, columns)) * 40, -127, 127)
    return exact, np.rint(mixed).astype(np.float32)


@pytest.mark.parametrize("columns", [33, 64, 600])
@pytest.mark.parametrize("saturating", [False, True])
def test_few_patches_are_as_good_as_their_moments(columns, saturating):
    """The same objective in its other form, to what float32 leaves of it."""
    exact, patches = few(columns, columns // 8, columns)
    hessian = patches.T.astype(np.float64) @ patches / len(patches)
    packings = pairings(columns, ()) if saturating else ()
    start = nearest(exact, hessian, packings)
    of_patches = learn_rounding(start, exact, Samples(patches), packings)
    of_matrix = learn_rounding(start, exact, hessian, packings)
    np.testing.assert_allclose(of_patches.before, of_matrix.before, rtol=1e-4)
    damped = hessian + 0.01 * np.trace(hessian) / columns * np.eye(columns)
    np.testing.assert_allclose(of_patches.after, cost(of_patches.whole, exact, damped), rtol=1e-3)
    assert of_patches.after.sum() == pytest.approx(of_matrix.after.sum(), rel=0.1)
    assert of_patches.after.sum() < 0.1 * of_patches.before.sum()
    for pairs in packings:
        a, b = of_patches.whole[:, pairs[:, 0]], of_patches.whole[:, pairs[:, 1]]
        assert ((a * b <= 0) | (np.abs(a + b) <= PAIR_LIMIT)).all()


def test_the_factor_from_patches_is_that_of_the_matrix():
    """Every block: what the errors behind it ask, the factor, the slopes and the cost."""
    _, patches = few(0, 40, 300)
    hessian = patches.T @ patches / np.float32(len(patches))
    order = np.random.default_rng(1).permutation(300)
    dense, sampled = objective(hessian[None], order), objective(Samples(patches), order)
    error = np.random.default_rng(2).uniform(-1, 1, (1, 300, 5)).astype(np.float32)
    np.testing.assert_allclose(sampled.cost(error), dense.cost(error), rtol=1e-3)
    np.testing.assert_allclose(sampled.diagonal, dense.diagonal, rtol=1e-4)
    for form in (dense, sampled):
        form.begin(None)
    for block in (slice(200, 300), slice(100, 200), slice(0, 100)):
        for got, wanted in zip(
            sampled.behind(block, error), dense.behind(block, error), strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=0.02, atol=0.02 * np.abs(wanted).max())
        for form in (dense, sampled):
            form.tell(block, error[:, block])
    sampled.begin(error)
    slopes, own = sampled.slopes(slice(100, 200), error)
    wanted, wanted_own = dense.slopes(slice(100, 200), error)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(own, wanted_own, rtol=1e-3, atol=1e-4 * np.abs(wanted_own).max())


def test_columns_that_others_explain_least_come_first(monkeypatch):
    """Against the order in which they stand: a better end, over several layers."""
    ends = {"standing": 0.0, "ordered": 0.0}
    for seed in range(5):
        exact, patches = few(seed, 600, 64)
        patches *= np.exp(np.random.default_rng(seed).standard_normal(64)).astype(np.float32)
        hessian = patches.T @ patches / len(patches)
        for which in ends:
            with monkeypatch.context() as patched:
                if which == "standing":
                    patched.setattr(rounding, "unexplained", lambda form: np.ones(form.shape[-1]))
                found = learn_rounding(np.rint(exact), exact, hessian, sweeps=0)
            ends[which] += found.after.sum()
    assert ends["ordered"] < 0.8 * ends["standing"]


def test_a_block_takes_fewer_rounds_than_it_has_columns(monkeypatch):
    """What makes it fast: a round is some dozens of calls, whatever the number of columns."""
    rounds = []
    real = rounding_pairs.Block.rounded
    monkeypatch.setattr(rounding_pairs.Block, "rounded", lambda *a: rounds.append(1) or real(*a))
    exact, patches = few(0, 3000, 512)
    learn_rounding(np.rint(exact), exact, patches.T @ patches / 3000, pairings(512, ()))
    assert len(rounds) < 512 / 2 / 1.5
