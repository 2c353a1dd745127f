"""Settings that make no sense are refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgeres.errors import UsageError
from edgeres.recipe.prune import PruneSettings


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0, 1.5, math.nan, math.inf, -math.inf])
def test_ratios_out_of_range(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"PruneSettings: `macs_ratio`: .* got ") as caught:
        PruneSettings(macs_ratio=ratio)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"importance": "magic"},
        {"normalization": "max"},
        {"allocation": "magic"},
        {"round_to": 0},
        {"min_share": 0.0},
        {"min_share": 1.1},
        {"min_share": math.nan},
        {"iterative_steps": 0},
        {"samples": 1},
        {"epochs_between": -1},
        {"epochs_between": 2, "iterative_steps": 2, "finetune": None},
        {"epochs_between": 2, "iterative_steps": 1},
        {"widths": {"conv1": 8}},
        {"widths": {"conv1": 0}, "allocation": "per_layer"},
        {"widths": {}, "allocation": "per_layer"},
        {"target_latency": 0.5},
        {"target_latency": 0.0, "allocation": "latency"},
        {"target_latency": 1.0, "allocation": "latency"},
        {"target_latency": -1.0, "allocation": "latency"},
        {"target_latency": math.nan, "allocation": "latency"},
        {"latency_on": "openvino"},
        {"allocation": "latency", "target_latency": 0.5, "macs_ratio": 0.5},
        {"allocation": "per_layer", "widths": {"conv1": 8}, "macs_ratio": 0.5},
        {"sparse": {"strength": 0.0}},
        {"sparse": {"epochs": 0}},
        {"finetune": {"learning_rate": 0.0}},
    ],
)
def test_what_makes_no_sense_is_named_in_one_line(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))) as caught:
        PruneSettings(**values)
    assert "\n" not in str(caught.value)


def test_what_goes_together() -> None:
    widths = PruneSettings(allocation="per_layer", widths={"conv1": 8}).widths
    assert widths == {"conv1": 8}
    assert PruneSettings(allocation="latency", target_latency=0.5, latency_on="openvino")


def test_which_target_counts_is_in_no_key() -> None:
    here = PruneSettings(allocation="latency", target_latency=0.5, latency_on="openvino")
    assert here.key() == here.replace(latency_on="tensorrt").key()
    assert set(here.key()) == set(PruneSettings.model_fields) - {"latency_on", "only_if_faster"}
    threads = {"finetune": {"threads": 2}}
    assert PruneSettings(**threads).key() == PruneSettings().key()
