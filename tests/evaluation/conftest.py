"""Answers of made-up models, with chosen samples right and wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres.evaluation.predictions import Predictions

Answer = Callable[..., Predictions]


@pytest.fixture
def labels() -> NDArray[np.int64]:
    """1,000 labels of ten classes, 100 of each."""
    return np.arange(1000, dtype=np.int64) % 10


@pytest.fixture
def answer(labels: NDArray[np.int64]) -> Answer:
    """Builds answers that are wrong (by the next class) at the given samples."""

    def build(wrong: Sequence[int] = (), *, noise: float = 0.0, **about: str) -> Predictions:
        chosen = labels.copy()
        chosen[list(wrong)] = (chosen[list(wrong)] + 1) % 10
        logits = np.full((1000, 10), -1.0, dtype=np.float32)
        logits[np.arange(1000), chosen] = 5.0
        rng = np.random.default_rng(3)
        logits += noise * rng.standard_normal(logits.shape).astype(np.float32)
        return Predictions(logits=logits, labels=labels, **about)

    return build
