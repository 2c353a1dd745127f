"""``edgeres tune``: the search that was asked for, and the best of it in words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.tuning.record import Measured

from .conftest import invoke

BEST = SimpleNamespace(
    candidate=SimpleNamespace(label="openvino 0.5"),
    measured=Measured(
        latency_ms=1.25, fp32_latency_ms=3.125, speedup=2.5, metric="top-1", unit="pp", value=90.0,
        drop=0.25, drop_upper=0.4, max_drop=0.5, verdict="pass", macs_ratio=0.5,
    ),
)  # fmt: skip
RESULT = SimpleNamespace(best=BEST, recipe=Path("out/best.yaml"), to_dict=lambda: {"tries": []})


@pytest.fixture
def tuned(note):
    return note("edgeres.tuning.tune.tune", RESULT)


def test_lists_are_read_at_their_commas(tuned):
    result = invoke(
        "tune", "--trials", 3, "--budgets", "1, 0.5", "--importances", "l2", "--calibrators",
        "mse,minmax", "--precisions", "int8", "--epochs", 2, "--seed", 7, "--max-drop", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    settings = tuned.options["settings"]
    assert (settings.trials, settings.budgets, settings.importances) == (3, (1.0, 0.5), ("l2",))
    assert (settings.calibrators, settings.precisions) == (("mse", "minmax"), ("int8",))
    assert (settings.epochs, settings.seed) == (2, 7)
    recipe, folder = tuned.args
    assert recipe.gates.max_drop == 2.0
    assert folder == Path("runs") / f"{recipe.name}-tune"
    told = " ".join(result.stdout.split())
    assert "openvino 0.5: 1.25 ms, 2.50 times as fast as FP32, drop of top-1 +0.25 pp" in told
    assert "edgeres convert out/best.yaml --trust-recipe" in told


def test_budgets_that_are_no_numbers_are_refused(tuned):
    assert invoke("tune", "--budgets", "half").exit_code == 2
    assert tuned.calls == 0
