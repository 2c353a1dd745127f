"""What a pruned checkpoint says of itself is read as figures, and a bad one is named."""

from __future__ import annotations

import json

import pytest

from edgeres.errors import ArtefactError
from edgeres.pruning.confirmed import ConfirmedWidths, Round
from edgeres.pruning.summary import CONFIRMED, PruneSummary

CHOICE = Round({"conv1": 8}, 1.5, 2.0, {"conv1": 10}, 1.6, 1.75, 4.0)
WIDTHS = ConfirmedWidths({"conv1": 10}, "uniform", 1.6, 1.75, 1.75, True, (CHOICE,))
TEXTS = {
    "macs_ratio": "0.500000",
    "held_out_top1": "0.9412",
    "epoch": "7",
    "pruning": "{}",
    "dense_latency_ms": "4.0",
    CONFIRMED: WIDTHS.to_json(),
}


def test_figures_come_out_as_numbers_and_the_texts_stay():
    summary = PruneSummary.of(TEXTS, "small.safetensors")
    assert (summary.macs_ratio, summary.held_out_top1) == (0.5, 0.9412)
    assert (summary.dense_latency_ms, summary.predicted_latency_ms) == (4.0, None)
    assert summary.confirmed == WIDTHS
    assert "pruning" not in summary.metadata
    told = summary.to_dict()
    assert told["epoch"] == "7"
    assert told[CONFIRMED]["rounds"][0]["kept"] == "uniform"
    again = PruneSummary.of(json.loads(summary.to_json()), "stored")
    assert again == summary


def test_a_person_reads_what_was_and_what_is():
    sizes = {"dense_macs": "2000", "macs": "1000", "dense_parameters": "70", "parameters": "40"}
    scores = {"dense_held_out_top1": "0.9512", "untrained_held_out_top1": "0.9"}
    summary = PruneSummary.of({**TEXTS, **sizes, **scores}, "small.safetensors")
    assert summary.lines() == (
        "50.0 % of the multiply-adds (1,000 of 2,000), 40 of 70 parameters",
        "top-1 on the held-out images: 95.12 % dense, 90.00 % pruned, 94.12 % fine-tuned",
    )
    assert PruneSummary.of({"macs_ratio": "0.5"}, "old").lines() == ("50.0 % of the multiply-adds",)


def test_the_stored_form_of_widths_is_that_of_earlier_versions():
    assert json.loads(WIDTHS.to_json()) == {
        "widths": {"conv1": 10},
        "kept": "uniform",
        "predicted_ms": 1.6,
        "measured_ms": 1.75,
        "uniform_ms": 1.75,
        "within_budget": True,
        "rounds": [
            {
                "widths": {"conv1": 8},
                "predicted_ms": 1.5,
                "measured_ms": 2.0,
                "uniform_widths": {"conv1": 10},
                "uniform_predicted_ms": 1.6,
                "uniform_ms": 1.75,
                "dense_ms": 4.0,
                "kept": "uniform",
            }
        ],
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"macs_ratio": "half"}, r"small\.safetensors: macs_ratio: expected a number, got 'half'"),
        ({"held_out_top1": ""}, "held_out_top1: expected a number"),
        ({CONFIRMED: "{"}, f"small.safetensors: {CONFIRMED}: is not JSON"),
        (
            {CONFIRMED: WIDTHS.to_json().replace('"kept": "uniform"', '"kept": "best"')},
            f"{CONFIRMED}: kept: ",
        ),
        ({CONFIRMED: json.dumps({"kept": "latency"})}, "widths: Field required"),
    ],
)
def test_a_bad_text_is_named(changes, told):
    with pytest.raises(ArtefactError, match=told):
        PruneSummary.of({**TEXTS, **changes}, "small.safetensors")


def test_a_ratio_must_be_there():
    with pytest.raises(ArtefactError, match="macs_ratio: is missing"):
        PruneSummary.of({"epoch": "1"}, "small.safetensors")
