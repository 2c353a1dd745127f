"""How often the confidence bound on the accuracy drop is right: exact sums, and the power of gates.

Two models answer the same samples. For given true rates of samples lost and gained, this sums the
probability of all pairs of counts whose 95 % upper bound covers the true drop, and simulates how
often the verdict of `edgeres.evaluation.gates` is reached. No model and no data are needed.

    python benchmarks/paired_bound.py
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from scipy.stats import binom

from edgeres.evaluation.statistics import drop_lower, drop_upper, samples_to_decide

_upper = cache(drop_upper)


def exact_coverage(samples: int, discordant: float, drop: float) -> float:
    """Probability that the 95 % upper bound is at least the true drop."""
    lose, gain = (discordant + drop) / 2, (discordant - drop) / 2
    most = int(samples * discordant + 8 * math.sqrt(samples * discordant) + 12)
    lost = np.arange(most)
    covered = 0.0
    for gained in range(most):
        weights = binom.pmf(gained, samples, gain) * binom.pmf(
            lost, samples - gained, lose / (1 - gain)
        )
        low, high = 0, most  # the bound grows with the losses: from the first that covers on
        while low < high:
            middle = (low + high) // 2
            if _upper(middle, gained, samples) >= drop - 1e-12:
                high = middle
            else:
                low = middle + 1
        covered += float(weights[low:].sum())
    return covered


def simulated_coverage(samples: int, discordant: float, drop: float) -> float:
    """Share of 10,000 simulated comparisons whose 95 % upper bound is at least the true drop."""
    lose, gain = (discordant + drop) / 2, (discordant - drop) / 2
    draws = np.random.default_rng(2).multinomial(
        samples, [lose, gain, 1 - lose - gain], size=10_000
    )
    return float(np.mean([_upper(int(b), int(c), samples) >= drop - 1e-12 for b, c, _ in draws]))


def decided(samples: int, lose: float, gain: float, budget: float) -> tuple[float, float]:
    """Shares of 10,000 simulated comparisons that pass and that fail."""
    draws = np.random.default_rng(1).multinomial(
        samples, [lose, gain, 1 - lose - gain], size=10_000
    )
    pairs = [(int(lost), int(gained)) for lost, gained, _ in draws]
    passed = np.mean([_upper(lost, gained, samples) <= budget for lost, gained in pairs])
    failed = np.mean([drop_lower(lost, gained, samples) > budget for lost, gained in pairs])
    return float(passed), float(failed)


def main() -> None:
    """Prints both tables as Markdown."""
    shares = (-1.0, -0.5, 0.0, 0.5, 1.0)
    print("Coverage of the 95 % upper bound, in percent (exact)\n")
    print("| samples | discordant | " + " | ".join(f"drop {s:+.0%} of them" for s in shares) + " |")
    print("|---|---|" + "---|" * len(shares))
    for samples in (1_000, 10_000):
        for discordant in (0.001, 0.005, 0.01, 0.02, 0.04):
            cells = [
                f"{100 * exact_coverage(samples, discordant, s * discordant):.1f}" for s in shares
            ]
            print(f"| {samples:,} | {discordant:.1%} | " + " | ".join(cells) + " |")
    print("\nCoverage in 10,000 simulated comparisons, in percent\n")
    print("| samples | discordant | " + " | ".join(f"drop {s:+.0%} of them" for s in shares) + " |")
    print("|---|---|" + "---|" * len(shares))
    for samples in (1_000, 10_000):
        for discordant in (0.01, 0.02, 0.04):
            cells = [
                f"{100 * simulated_coverage(samples, discordant, s * discordant):.1f}"
                for s in shares
            ]
            print(f"| {samples:,} | {discordant:.0%} | " + " | ".join(cells) + " |")
    print("\nVerdicts at a budget of 0.5 pp, 10,000 samples, 2 % discordant (simulated)\n")
    print("| true drop | pass | fail | samples for a verdict with 90 % power |")
    print("|---|---|---|---|")
    for drop in (-0.002, 0.0, 0.002, 0.004, 0.005, 0.007, 0.01):
        lose, gain = (0.02 + drop) / 2, (0.02 - drop) / 2
        passed, failed = decided(10_000, lose, gain, 0.005)
        needed = samples_to_decide(round(lose * 1e6), round(gain * 1e6), 10**6, 0.005, power=0.9)
        told = "never" if needed is None else f"{needed:,}"
        print(f"| {100 * drop:+.1f} pp | {passed:.1%} | {failed:.1%} | {told} |")


if __name__ == "__main__":
    main()
