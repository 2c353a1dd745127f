"""Findings: each is told when the numbers ask for it, and only then."""

from __future__ import annotations

import dataclasses

import pytest

from edgeres.evaluation.coverage import FloatLayer
from edgeres.report.explain import findings
from edgeres.report.schema import Percentiles


def codes(report) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for finding in findings(report):
        found.setdefault(finding.code, []).append(finding.target)
    return found


def text_of(report, code: str) -> str:
    return next(f.text for f in findings(report) if f.code == code)


def test_a_quiet_good_run_has_no_warnings(report, target) -> None:
    good = report(targets={"x": target(float_layers=(), int8_coverage=1.0)}, pruning=None)
    assert findings(good) == ()


@pytest.mark.parametrize(
    ("gain", "code"),
    [(1.35, "pruning-gain"), (1.02, "pruning-no-faster"), (0.9, "pruning-no-faster")],
)
def test_what_pruning_gains_is_told(report, target, gain: float, code: str) -> None:
    pruned = target(
        unpruned_latency_ms=Percentiles(1.234 * gain, 2, 3),
        pruning_speedup=gain,
        pruning_speedup_interval=(gain - 0.1, gain + 0.1),
    )
    text = text_of(report(targets={"x": pruned}), code)
    assert f"pruning makes the INT8 engine {gain:.2f} times as fast" in text
    assert ("Without `prune:`" in text) is (code == "pruning-no-faster")
    assert "pruning-gain" not in codes(report(targets={"x": target()}))


def test_slower_int8_is_explained_by_the_cpu(report, target) -> None:
    slow = target(
        speedup=0.8,
        speedup_interval=(0.78, 0.82),
        latency_ms=Percentiles(4.5, 5, 6),
        float_layers=(),
        int8_coverage=1.0,
    )
    told = report(targets={"x": slow})
    text = text_of(told, "int8-slower")
    assert "INT8 (4.50 ms) is slower than FP32 (3.58 ms)" in text
    assert "no INT8 instructions" in text
    vnni = dataclasses.replace(told.environment, isa=("avx2", "avx_vnni"))
    assert "no INT8 instructions" not in text_of(
        report(targets={"x": slow}, environment=vnni), "int8-slower"
    )
    assert "edgeres inspect" in text_of(
        report(targets={"x": slow}, environment=vnni), "int8-slower"
    )
    pi_4 = dataclasses.replace(told.environment, isa=("neon",), architecture="aarch64")
    text = text_of(report(targets={"x": slow}, environment=pi_4), "int8-slower")
    assert "no dot products" in text
    assert "VNNI" not in text


def test_slower_int8_is_explained_by_float_layers_and_overhead(report, target) -> None:
    slow = target(
        speedup=0.7, int8_coverage=0.4, overhead_ms=0.05, latency_ms=Percentiles(0.1, 0.2, 0.3)
    )
    text = text_of(report(targets={"x": slow}), "int8-slower")
    assert "only 40 % of the MACs" in text
    assert "calling it takes 0.050 ms" in text


def test_barely_faster_is_said_with_less_certainty(report, target) -> None:
    barely = report(targets={"x": target(speedup=1.04, speedup_interval=(0.97, 1.1))})
    assert "int8-no-faster" in codes(barely)
    assert "int8-slower" not in codes(barely)


def test_largest_float_layers_are_named(report, target) -> None:
    layers = tuple(FloatLayer(f"conv{i}", 10 - i, "float32", f"why{i}") for i in range(5))
    text = text_of(
        report(targets={"x": target(float_layers=layers, int8_coverage=0.9)}), "float-layers"
    )
    assert text == "10.0 % of the MACs do not run in INT8: conv0, conv1, conv2, ... (why0)."


def test_saturation_is_a_warning_only_where_the_weights_allow_it(report, target) -> None:
    safe = report(targets={"x": target(saturating=True, saturation_safe=True)})
    assert [f.level for f in findings(safe) if f.code == "saturation"] == ["info"]
    unsafe = report(targets={"x": target(saturating=True, saturation_safe=False, sqnr_db=18.0)})
    assert "18.0 dB looks like it happened" in text_of(unsafe, "saturation-unsafe")
    mild = report(targets={"x": target(saturating=True, saturation_safe=False, sqnr_db=35.0)})
    assert "looks like" not in text_of(mild, "saturation-unsafe")
    assert "saturation" not in codes(report(targets={"x": target(saturating=False)}))


def test_broken_outputs_are_no_loss_of_accuracy(report, target) -> None:
    broken = report(targets={"x": target(nan_samples=3, inf_samples=1)})
    assert "3 samples give NaN and 1 give Inf" in text_of(broken, "broken-outputs")
    assert findings(broken)[0].level == "warning"


def test_how_to_build_it_by_hand_is_told(report, target) -> None:
    assert "vendor-command" not in codes(report(targets={"x": target()}))
    told = report(targets={"x": target(commands=("with the tool: tool --flag",))})
    assert text_of(told, "vendor-command") == "with the tool: tool --flag"


def test_where_the_accuracy_went(report) -> None:
    assert codes(report())["where-lost"] == ["onnxruntime", "openvino"]
    assert "pruning took +0.13 and quantization +0.08" in text_of(report(), "where-lost")
    assert "where-lost" not in codes(report(pruning=None))


def test_backends_that_differ(report, target) -> None:
    apart = report(targets={"a": target(sqnr_db=36.0), "b": target(sqnr_db=22.0)})
    assert codes(apart)["backends-differ"] == ["b"]
    assert "14 dB noisier here than on a" in text_of(apart, "backends-differ")
    close = report(targets={"a": target(sqnr_db=36.0), "b": target(sqnr_db=34.0)})
    assert "backends-differ" not in codes(close)


def test_a_backend_that_leaves_int8_unused_is_told_beside_one_that_uses_it(report, target) -> None:
    both = report(targets={"x": target(int8_coverage=0.1), "y": target(int8_coverage=1.0)})
    text = text_of(both, "int8-unused")
    assert text.startswith("INT8 is mostly not used on this CPU (10 % of the MACs); y runs 100 %")
    for other in (0.3, None):  # nobody uses it, or the other is not known
        alone = report(targets={"x": target(int8_coverage=0.1), "y": target(int8_coverage=other)})
        assert "int8-unused" not in {finding.code for finding in findings(alone)}


def test_what_was_not_run_is_not_claimed(report) -> None:
    assert codes(report())["not-executed"] == ["tensorrt"]
    assert "accuracy and latency there are not known" in text_of(report(), "not-executed")


def test_doubtful_times(report) -> None:
    assert codes(report())["timing-unstable"] == ["openvino"]
    assert "the times are doubtful" in text_of(report(), "int8-slower")
