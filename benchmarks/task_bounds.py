"""How often the bounds of every kind of metric are right, and how often an equal engine passes.

Two models answer the same simulated samples: each answers what both share and a noise of its own,
as a float network and its engine do. In half of the runs the candidate is no worse (the two can be
exchanged, so the true drop is exactly 0), in the other half it is, by a known amount. The share of
runs whose one-sided 95 % upper bound is at least the true drop is the coverage; the share of runs
at no drop whose upper bound is within the usual budget is the power.

    python benchmarks/task_bounds.py            writes benchmarks/results/task_bounds.json, ten
                                                minutes on two cores
    python benchmarks/task_bounds.py --quick    a part of it, to the screen only
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edgeres.tasks import open_task
from edgeres.tasks.difference import difference
from edgeres.tasks.metric import Metric, Rows
from edgeres.tasks.pairs import cosines, pairs_of, true_accepts

RESULT = Path(__file__).parent / "results" / "task_bounds.json"
RESAMPLES = 400
SIZES = {500: 1000, 10_000: 400}  # runs of each size
_PHI = NormalDist().cdf
_OWN = 0.15  # standard deviation of each model's own noise, where what they share has 1

Pair = tuple[Rows, Rows, float]
"""What is kept of both models, and the true drop, in the unit that is shown."""
Make = Callable[[np.random.Generator, int, bool], Pair]


@dataclass(frozen=True)
class Scenario:
    """One metric under one kind of difference; ``weight`` divides the number of runs."""

    metric: Metric
    make: Make
    weight: int = 1


def right_or_wrong(share: float, rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Answers of which a share differs; if worse, three in four of them are lost."""
    lost = 0.75 if worse else 0.5
    differs, base = rng.random(n) < share, (rng.random(n) < 0.9) * 1.0
    side = rng.random(n) < lost
    before = np.where(differs, side, base)
    after = np.where(differs, ~side, base)
    return {"x": before}, {"x": after}, 100 * share * (2 * lost - 1)


def ages(rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Errors in years: 5 of the network, 0.5 of each model; if worse, 2 % are off by 12 more."""
    shared = rng.normal(0, 5, n)
    before = np.abs(shared + rng.normal(0, 0.5, n))
    far = (rng.random(n) < 0.02) * 12.0 if worse else np.zeros(n)
    after = np.abs(shared + rng.normal(0, np.hypot(0.5, far)))
    mean = math.sqrt(2 / math.pi)
    drop = 0.02 * mean * (math.hypot(5, 0.5, 12) - math.hypot(5, 0.5)) if worse else 0.0
    return {"x": before}, {"x": after}, drop


def rare_errors(share: float, rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Errors that are equal but for a share: exponential and all worse, or to both sides alike."""
    before = rng.exponential(3, n)
    size = rng.exponential(1, n) if worse else rng.laplace(0, 1, n)
    after = before + (rng.random(n) < share) * size
    return {"x": before}, {"x": after}, share if worse else 0.0


def ties(rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Scores in tenths, nine of ten of them equal."""
    before = rng.integers(3, 8, n) / 10
    steps = rng.choice([-3, -1, 0, 1, 3], n, p=[0.01, 0.04, 0.9, 0.04, 0.01])
    if worse:
        steps = np.where(rng.random(n) < 0.01, -3, steps)
    return {"x": before}, {"x": before + steps / 10}, 100 * 0.003 if worse else 0.0


def _answers(
    rng: np.random.Generator, labels: NDArray[np.int64], apart: float
) -> NDArray[np.float64]:
    return apart * labels + rng.normal(0, _OWN, labels.shape)


def yes_or_no(rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Scores of which a tenth is a yes; a worse model keeps yes and no 0.05 less apart."""
    labels = (rng.random(n) < 0.1).astype(np.int64)
    shared, wide = rng.normal(size=n), math.hypot(1, _OWN) * math.sqrt(2)
    apart = 2.0 - 0.05 * worse
    task = open_task("binary", {"form": "logit"})
    rows = [
        task.rows({"y": shared + _answers(rng, labels, one)}, {"": labels}) for one in (2.0, apart)
    ]
    return rows[0], rows[1], 100 * (_PHI(2.0 / wide) - _PHI(apart / wide))


SHARES = np.array([0.3, 0.1, 0.1, 0.05])


def _precision(share: float, apart: float) -> float:
    """Average precision of normal scores, by the sum over 20,000 thresholds."""
    at = np.linspace(8, -8, 20_001)
    wide = math.hypot(1, _OWN) * math.sqrt(2)
    right = np.array([_PHI(x) for x in (apart - at) / wide])
    wrong = np.array([_PHI(x) for x in -at / wide])
    precision = share * right / np.maximum(share * right + (1 - share) * wrong, 1e-300)
    return float((np.diff(right) * (precision[1:] + precision[:-1]) / 2).sum())


def _f1(apart: float) -> float:
    """F1 of normal scores over all classes, a yes from 1 on."""
    wide = math.hypot(1, _OWN) * math.sqrt(2)
    hits = SHARES.sum() * _PHI((apart - 1) / wide)
    said = hits + (1 - SHARES).sum() * _PHI(-1 / wide)
    return 2 * float(hits / (said + SHARES.sum()))


def labels_of(figure: str, rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Four classes of 5 to 30 %, whose scores belong together in a sample."""
    labels = (rng.random((n, 4)) < SHARES).astype(np.int64)
    shared = rng.normal(size=(n, 1)) + rng.normal(size=(n, 4))
    shared /= math.sqrt(2)
    shared = shared * math.sqrt(2 * (1 + _OWN**2) - _OWN**2)  # as wide as the truth counts
    apart = 2.0 - 0.05 * worse
    task = open_task("multilabel", {"form": "logit", "threshold": 1 / (1 + math.exp(-1))})
    rows = [
        task.rows({"y": shared + _answers(rng, labels, one)}, {"": labels}) for one in (2.0, apart)
    ]
    drop = 0.0
    if worse and figure == "f1":
        drop = _f1(2.0) - _f1(apart)
    elif worse:
        drop = float(np.mean([_precision(s, 2.0) - _precision(s, apart) for s in SHARES]))
    return rows[0], rows[1], 100 * drop


def maps(rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Masks of five classes; images differ in how hard they are, for both models alike.

    If worse, one image in a hundred is right in half as many pixels.
    """
    right = rng.multinomial(1000, rng.dirichlet(np.full(5, 0.7), n))
    ease = rng.beta(8, 1.5, n)
    spoilt = np.where(worse & (rng.random(n) < 0.01), 0.5, 1.0)
    rows = []
    for part in (ease, ease * spoilt):
        hit = rng.binomial(right, part[:, None])
        wrong = rng.multinomial(1000 - hit.sum(axis=1), np.full(5, 0.2))
        rows.append({"hit": hit * 1.0, "said": (hit + wrong) * 1.0, "right": right * 1.0})
    mean = 8 / 9.5
    ious = [m / (1 + (1 - m)) for m in (mean, mean * (1 - 0.005 * worse))]
    return rows[0], rows[1], 100 * (ious[0] - ious[1])


def faces(rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Embeddings of n / 5 people. Always exchangeable: the drop is 0."""
    labels = np.arange(n) % max(2, n // 5)
    shared = rng.normal(size=(n, 16)) * 0.6 + rng.normal(size=(n, 16))[labels]
    rows = []
    for _ in range(2):
        vectors = shared + rng.normal(0, 0.1, shared.shape)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        rows.append({"unit": units.astype(np.float32), "label": labels})
    return rows[0], rows[1], 0.0


def noisy(rng: np.random.Generator, n: int, worse: bool) -> Pair:
    """Energies of signal and noise: 26 dB with log-normal tails; if worse, 2 % of 20 times that."""
    signal = rng.gamma(4, 0.25, n)
    noise = signal * 0.0025 * rng.lognormal(-0.32, 0.8, n)
    if worse:
        noise = noise * np.where(rng.random(n) < 0.02, 20.0, 1.0)
    ratio = 0.0025 * (1 + 0.02 * 19 * worse)
    return {"s": signal}, {"s": noise}, 10 * math.log10(ratio)


def _accepted(rows: Rows) -> Callable[[NDArray[np.int64]], float]:
    pairs = pairs_of(rows["label"], 20_000)
    return true_accepts(cosines(rows["unit"], pairs), pairs, 0.01)


def scenarios() -> dict[str, Scenario]:
    """All of them by name."""
    right = Metric("top1", "top-1", "pp", True, 0.5, scores=lambda r: r["x"], factor=100.0)
    error = Metric("mae", "mean absolute error", "", False, 0.1, scores=lambda r: r["x"])
    score = Metric("score", "score", "pp", True, 0.5, scores=lambda r: r["x"], factor=100.0)
    close = Metric("db", "SQNR", "dB", True, 20.0, closeness=lambda a, b: (a["s"], b["s"]))
    tar = Metric("tar", "true accepts", "pp", True, 1.0, value=_accepted, factor=100.0)
    auc = open_task("binary", {"form": "logit"}).metrics[1]
    precision, f1 = open_task(
        "multilabel", {"form": "logit", "threshold": 1 / (1 + math.exp(-1))}
    ).metrics
    found = {
        f"right or wrong, {100 * share:g} % differ": Scenario(right, partial(right_or_wrong, share))
        for share in (0.01, 0.02, 0.04)
    }
    found["mean absolute error, all differ"] = Scenario(error, ages)
    for share in (0.01, 0.02, 0.04):
        name = f"mean absolute error, {100 * share:g} % differ"
        found[name] = Scenario(error, partial(rare_errors, share))
    found["mean score in tenths, 90 % ties"] = Scenario(score, ties)
    found["SQNR, log-normal noise"] = Scenario(close, noisy)
    found["AUC, 10 % positive"] = Scenario(auc, yes_or_no)
    found["F1 of four classes"] = Scenario(f1, partial(labels_of, "f1"))
    found["mean average precision of four classes"] = Scenario(
        precision, partial(labels_of, "map"), 4
    )
    found["mean IoU of five classes"] = Scenario(open_task("segmentation").metrics[0], maps)
    found["true accepts at 1 % false ones"] = Scenario(tar, faces, 4)
    return found


def simulate(
    name: str, samples: int, worse: bool, runs: int, resamples: int = RESAMPLES
) -> dict[str, object]:
    """Runs one scenario.

    Args:
        name: Of the scenario.
        samples: In each run.
        worse: Whether the candidate is.
        runs: How many.
        resamples: Draws in each run, for metrics of the whole set.
    """
    scenario = scenarios()[name]
    rng = np.random.default_rng([samples, worse, len(name)])
    upper_holds = lower_holds = passed = 0
    close = scenario.metric.closeness is not None
    limit = scenario.metric.max_drop * (-1 if close else 1)
    slack = []
    for run in range(runs):
        before, after, drop = scenario.make(rng, samples, worse)
        d = difference(scenario.metric, before, after, seed=run, resamples=resamples)
        upper_holds += d.upper >= drop - 1e-12
        lower_holds += d.lower <= drop + 1e-12
        passed += d.upper <= limit
        slack.append(d.upper - d.drop)
    return {
        "metric": name,
        "samples": samples,
        "true_drop": round(drop, 4),
        "runs": runs,
        "upper_coverage": round(upper_holds / runs, 4),
        "lower_coverage": round(lower_holds / runs, 4),
        "standard_error": round(math.sqrt(0.05 * 0.95 / runs), 4),
        "budget": scenario.metric.max_drop,
        "passes": round(passed / runs, 4),
        "upper_above_drop": round(float(np.median(slack)), 4),
    }


def main() -> None:
    """Runs all scenarios on two cores."""
    parser = argparse.ArgumentParser(description="Simulates the coverage of the bounds.")
    parser.add_argument("--quick", action="store_true", help="A twentieth of the runs, no file.")
    arguments = parser.parse_args()
    jobs = [
        (name, samples, worse, max(10, runs // one.weight // (20 if arguments.quick else 1)))
        for name, one in scenarios().items()
        for samples, runs in SIZES.items()
        for worse in (False, True)
        if not (worse and one.make is faces)
    ]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(simulate, *zip(*jobs, strict=True)))
    print("| metric | samples | true drop | upper covers | lower covers | passes |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        shares = [f"{100 * float(str(row[k])):.1f} %" for k in ("upper_coverage", "lower_coverage")]
        print(
            f"| {row['metric']} | {row['samples']} | {row['true_drop']} | {' | '.join(shares)} | "
            f"{100 * float(str(row['passes'])):.0f} % |"
        )
    if not arguments.quick:
        settings = {"confidence": 0.95, "resamples": RESAMPLES}
        RESULT.write_text(json.dumps(settings | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
