"""Engines of the reference network on an emulated Raspberry Pi 5 against FP32 logits of x86."""

from __future__ import annotations

from typing import Any

import pytest

from edgeres.backends import get_backend

from .conftest import ROOT, Arm

IMAGES = 4


@pytest.fixture(scope="module")
def measured(arm: Arm, load_program: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All rows of the benchmark's table, from few images."""
    for name in ("onnxruntime", "openvino"):
        if (reason := get_backend(name).missing()) is not None:
            pytest.skip(reason)
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        program = load_program(ROOT / "benchmarks" / "arm64.py")
        subject = program.open_subject("resnet20", folder / "subjects")
        program.prepare(subject, folder / "resnet20", IMAGES)
    engines = ROOT / "benchmarks" / "arm64_engines.py"
    return arm("cortex-a76", engines, folder / "resnet20", folder / "engines", read=True)["engines"]


def test_onnxruntime_runs_all_in_int8_and_plain_weights_are_right(measured: Any) -> None:
    plain = measured["resnet20/plain-onnxruntime/onnxruntime"]
    safe = measured["resnet20/safe-onnxruntime/onnxruntime"]
    assert plain["int8_coverage"] == safe["int8_coverage"] == 1.0
    assert plain["sqnr_db"] > 33  # 15 where sums are clipped
    assert safe["sqnr_db"] > 32
    assert plain["top1_agreement"] == 1.0


def test_openvino_is_right_though_mostly_in_float(measured: Any) -> None:
    found = measured["resnet20/plain-openvino/openvino"]
    assert found["sqnr_db"] > 30
    assert 0 < found["int8_coverage"] < 0.5


def test_openvinos_matrix_product_is_right(measured: Any) -> None:
    """The last layer alone; with snippets off it had 11.5 dB."""
    head = measured["resnet20/head-openvino/openvino"]
    assert head["sqnr_db"] is None or head["sqnr_db"] > 100


def test_fp32_is_fp32(measured: Any) -> None:
    for name in ("onnxruntime", "openvino"):
        assert measured[f"resnet20/fp32-any/{name}"]["sqnr_db"] > 100
