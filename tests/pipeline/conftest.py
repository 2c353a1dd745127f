"""One run of a network of one block on ONNX Runtime, stage by stage, for the tests of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.pipeline.convert import prove, stage_store
from edgeres.pipeline.inputs import Inputs, open_inputs
from edgeres.pipeline.proof import Proof
from edgeres.pipeline.run import Run
from edgeres.recipe.recipe import Recipe
from edgeres.report.schema import Report
from edgeres.system.progress import Silent

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "kills.py"


class Notes(Silent):
    """Remembers what a person is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


@dataclass(frozen=True)
class Ran:
    """A run and all that came of it."""

    inputs: Inputs
    run: Run
    report: Report
    proof: Proof
    table: Path
    notes: list[str]


def write_images(path: Path, *, seed: int, count: int = 40) -> str:
    """Grey images of 28x28 in ten classes; what follows ``--data``."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(count) % 10)
    return f"npz:{path}"


@pytest.fixture(scope="session")
def place(load_program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``net.onnx`` and two sets of images; only to read."""
    folder = tmp_path_factory.mktemp("pipeline")
    load_program(PROGRAM).write_network(folder / "net.onnx")
    write_images(folder / "calibration.npz", seed=0)
    write_images(folder / "validation.npz", seed=1)
    return folder


@pytest.fixture(scope="session")
def recipe(place: Path) -> Recipe:
    if (reason := get_backend("onnxruntime").missing()) is not None:
        pytest.skip(reason)
    return Recipe.model_validate(
        {
            "name": "small",
            "model": {"source": str(place / "net.onnx")},
            "preprocess": {"mean": [0.286], "std": [0.353], "channels": 1},
            "data": {
                "validation": f"npz:{place / 'validation.npz'}",
                "calibration": f"npz:{place / 'calibration.npz'}",
                "calibration_samples": 30,
                "validation_samples": 40,
            },
            "targets": ["onnxruntime"],
            "gates": {"untrained": True, "max_drop": 100, "min_int8_coverage": 0},
            "benchmark": {"seconds": 0.1, "threads": 1},
        }
    )


@pytest.fixture(scope="session")
def ran(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The whole run, with its results in a store of its own."""
    inputs, notes = open_inputs(recipe), Notes()
    store = stage_store(tmp_path_factory.mktemp("out"))
    run, report, proof, table = prove(inputs, store, notes)
    return Ran(inputs, run, report, proof, table, notes.lines)


@pytest.fixture
def new_run(ran: Ran, tmp_path: Path) -> Run:
    """The same run with an empty store: each stage is done when it is asked for."""
    return Run(
        ran.run.recipe,
        stage_store(tmp_path / "new"),
        Notes(),
        ran.run.environment,
        ran.inputs.calibration,
    )
