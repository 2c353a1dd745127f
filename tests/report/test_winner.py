"""Which engine a run says to deploy: the fastest that passed, or float where INT8 gains nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeres.report.markdown import report_markdown
from edgeres.report.model_card import model_card
from edgeres.report.schema import Percentiles, read_report, write_report
from edgeres.report.winner import choose_winner


def at(target, p50: float, fp32: float = 4.0, **more):
    """An engine that passed, with its time and that of FP32 on its backend."""
    return target(
        latency_ms=Percentiles(p50, p50, p50), fp32_latency_ms=Percentiles(fp32, fp32, fp32), **more
    )


def winner_of(report, **targets):
    return choose_winner(replace(report(), targets=targets))


def test_the_fastest_engine_that_passed_wins_against_the_fastest_float_network(report, target):
    won = winner_of(
        report,
        onnxruntime=at(target, 2.0, fp32=5.0),
        openvino=at(target, 1.0, fp32=3.0, engine="openvino/model.xml"),
        other=at(target, 0.5, verdict="inconclusive"),
    )
    assert (won.target, won.engine, won.fastest_float) == (
        "openvino",
        "openvino/model.xml",
        "openvino",
    )
    assert won.speedup == pytest.approx(3.0)
    assert "openvino INT8, 1.00 ms: the fastest that passed, 3.00 times" in won.text


@pytest.mark.parametrize(("p50", "engine"), [(0.99, False), (0.97, True), (1.4, False)])
def test_float_wins_where_int8_gains_less_than_two_percent(report, target, p50, engine):
    won = winner_of(report, onnxruntime=at(target, p50, fp32=1.0))
    assert bool(won.engine) is engine
    if not engine:
        assert won.text.startswith("the FP32 network on onnxruntime, 1.00 ms: the fastest engine")


def test_fp16_is_a_float_network_too(report, target):
    fp16 = {"yardstick": "fp16", "yardstick_latency_ms": Percentiles(1.0, 1.0, 1.0)}
    won = winner_of(report, tensorrt=at(target, 1.1, fp32=4.0, **fp16))
    assert (won.engine, won.p50_ms) == ("", 1.0)
    assert won.text.startswith("the FP16 network on tensorrt, 1.00 ms: the fastest engine")
    won = winner_of(report, tensorrt=at(target, 0.5, fp32=4.0, **fp16))
    assert won.speedup == pytest.approx(2.0)
    assert "2.00 times as fast as the fastest float network (FP16 on tensorrt)" in won.text


def test_a_winner_that_is_mostly_float_says_so(report, target):
    won = winner_of(report, openvino=at(target, 1.0, int8_coverage=0.12))
    assert "It runs mostly in float: 12 % of the MACs are in INT8." in won.text
    assert "mostly" not in winner_of(report, openvino=at(target, 1.0, int8_coverage=0.9)).text


def test_a_slower_backend_is_no_yardstick(report, target):
    """INT8 on one backend beats its own float network and loses to the other's."""
    won = winner_of(report, slow=at(target, 2.0, fp32=4.0), fast=at(target, 1.5, fp32=1.0))
    assert (won.target, won.engine, won.p50_ms) == ("fast", "", 1.0)


def test_float_is_left_where_no_engine_passed(report, target):
    won = winner_of(report, onnxruntime=at(target, 0.5, verdict="fail"))
    assert won.text == "the FP32 network on onnxruntime, 4.00 ms: no engine passed."


def test_doubtful_times_are_said(report, target):
    assert "doubtful" in winner_of(report, onnxruntime=at(target, 1.0, stable=False)).text


def test_nothing_is_chosen_where_nothing_ran(report, target):
    assert winner_of(report, tensorrt=target(latency_ms=None, fp32_latency_ms=None)) is None


def test_every_form_of_the_report_says_it(report, target, tmp_path):
    made = report()
    told = replace(made, winner=choose_winner(made))
    write_report(told, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json").winner == told.winner
    for text in (report_markdown(told), model_card(told)):
        assert "onnxruntime INT8, 1.23 ms: the only one that passed, 2.90 times" in text
