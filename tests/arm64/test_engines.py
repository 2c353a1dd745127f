"""Engines of the reference network on emulated Arm CPUs against FP32 logits of x86."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeres.backends import get_backend

from .conftest import ROOT, Arm

IMAGES = 4


@pytest.fixture(scope="module")
def network(load_program: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the files that the benchmark's table is made from."""
    for name in ("onnxruntime", "openvino"):
        if (reason := get_backend(name).missing()) is not None:
            pytest.skip(reason)
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        program = load_program(ROOT / "benchmarks" / "arm64.py")
        subject = program.open_subject("resnet20", folder / "subjects")
        program.prepare(subject, folder / "resnet20", IMAGES)
    return folder / "resnet20"


ENGINES = ROOT / "benchmarks" / "arm64_engines.py"


@pytest.fixture(scope="module")
def measured(arm: Arm, network: Path) -> Any:
    """All rows of the table for a Raspberry Pi 5, from few images."""
    return arm("cortex-a76", ENGINES, network, network.parent / "engines", read=True)["engines"]


def test_int8_activations_run_in_int8_and_are_right(measured: Any) -> None:
    """Both types: which is faster, the device tells (`edgeres tune`, `edgeres benchmark`)."""
    signed = measured["resnet20/signed-onnxruntime/onnxruntime"]
    assert signed["int8_coverage"] == 1.0
    assert signed["sqnr_db"] > 33
    assert signed["top1_agreement"] == 1.0


@pytest.mark.parametrize("cpu", ["cortex-a72", "i8mm"])
def test_both_types_of_activations_are_right_with_other_kernels(
    arm: Arm, network: Path, cpu: str
) -> None:
    """Without dot products, and with matrix products of INT8."""
    files = ("plain-onnxruntime", "signed-onnxruntime")
    place = network.parent / f"engines-{cpu}"
    rows = arm(cpu, ENGINES, network, place, *files, read=True)["engines"]
    assert set(rows) == {f"resnet20/{file}/onnxruntime" for file in files}
    for row in rows.values():
        assert row["int8_coverage"] == 1.0
        assert row["sqnr_db"] > 33


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
