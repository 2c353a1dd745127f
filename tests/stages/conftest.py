"""A network of one block and images for the stages; only to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"
GREY = Preprocess(mean=(0.286,), std=(0.353,), channels=1)


@pytest.fixture(scope="session")
def network(load_program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stages") / "net.onnx"
    load_program(PROGRAM).write_network(path)
    return path


def grey_images(count: int = 40, seed: int = 0) -> ArrayDataset:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return ArrayDataset("grey", pixels, np.arange(count, dtype=np.int64) % 10)
