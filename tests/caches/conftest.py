"""A small network, small sets of images, and what every cache must notice of them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.fixture(scope="session")
def kills(load_program) -> ModuleType:
    """The program whose network of one block the tests use."""
    return load_program(PROGRAM)


def write_images(path: Path, *, seed: int = 0, count: int = 40) -> str:
    """Grey images of 28x28 in ten classes; gives what follows ``--data``."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(count) % 10)
    return f"npz:{path}"
