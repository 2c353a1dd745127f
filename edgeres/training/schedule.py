"""Learning rate by step: pure functions, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from edgeres.recipe.training import Training

START_FRACTION = 0.04  # a one-cycle warm-up begins at the peak over 25 (arXiv:1708.07120)


def learning_rate(settings: Training, step: int, steps: int) -> float:
    """Learning rate of one step.

    One-cycle: linear from ``START_FRACTION`` to the peak over ``warmup_fraction`` of the steps,
    then cosine annealing (arXiv:1608.03983) to ``final_fraction`` of the peak. Cosine: the same
    without the warm-up.

    Args:
        settings: Gives schedule and peak.
        step: From 0.
        steps: Steps of the whole run.
    """
    warmup = settings.warmup_fraction if settings.schedule == "one_cycle" else 0.0
    warm_steps = warmup * steps
    if step < warm_steps:
        share = START_FRACTION + (1 - START_FRACTION) * step / warm_steps
    else:
        done = (step - warm_steps) / max(1.0, steps - 1 - warm_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        share = settings.final_fraction + (1 - settings.final_fraction) * cosine
    return settings.learning_rate * share
