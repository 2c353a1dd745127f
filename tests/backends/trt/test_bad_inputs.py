"""What can be wrong at the command line: one line each, the right exit code, nothing deserialized.

Checks of versions and GPUs that need a driver are in ``trt_standin/test_load.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.cli import app

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


@pytest.fixture
def model(qdq_net: Callable[..., Any], tmp_path: Path) -> Path:
    onnx.save(qdq_net().model(), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def plan(model: Path) -> Path:
    assert edgeres("build", model, "--target", "tensorrt", "--output", model.parent / "net")[0] == 0
    return model.parent / "net.plan"


@pytest.fixture(autouse=True)
def _never_deserialized(monkeypatch: pytest.MonkeyPatch) -> None:
    def runtime(*_: object) -> None:
        pytest.fail("a plan was about to be deserialized")

    monkeypatch.setattr(trt, "Runtime", runtime)


def edgeres(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stderr


def says(code: int, text: str, *arguments: object) -> None:
    got, printed = edgeres(*arguments)
    assert got == code, printed
    told = printed.strip()
    assert told.startswith("error: ")
    assert "\n" not in told
    assert text in told


def test_no_driver(plan: Path) -> None:
    if get_backend("tensorrt").not_executable() is None:
        pytest.skip("there is a GPU")
    says(4, "no NVIDIA driver here", "benchmark", plan)


@pytest.mark.parametrize("command", ["inspect", "benchmark"])
def test_a_tampered_plan(plan: Path, command: str) -> None:
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 1
    plan.write_bytes(content)
    says(3, "its bytes are not the ones that were built", command, plan)


def test_a_plan_of_another_version_is_inspected_from_its_list_only(plan: Path) -> None:
    sidecar = plan.with_name("net.plan.engine.json")
    record = json.loads(sidecar.read_text())
    record["versions"]["tensorrt_rtx"] = "1.0.0.1"
    sidecar.write_text(json.dumps(record))
    result = CliRunner().invoke(app, ["inspect", str(plan), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["int8_coverage"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--option", "compute_capabilities=9.0"), 4, "compute capability 9.0 (H100, H200)"),
        (("--option", "compute_capabilities=7.5"), 2, "no INT8 convolution on compute capability"),
        (("--option", "compute_capabilities=7.5,8.6"), 2, "no INT8 convolution on compute"),
        (("--shapes", "4x3x16x16,2x3x16x16,8x3x16x16"), 2, "is 4, 2, 8; expected 1 <= min"),
        (("--shapes", "1x3x32x32,2x3x32x32,8x3x32x32"), 2, "but the model fixes it at 16"),
        (("--option", "io=float16"), 2, "io=float16 needs rest=float16"),
    ],
)
def test_builds_that_are_refused(
    model: Path, arguments: tuple[str, ...], code: int, text: str
) -> None:
    output = model.parent / "out"
    says(code, text, "build", model, "--target", "tensorrt", "--output", output, *arguments)
    assert not list(model.parent.glob("out*"))


def test_uint8_quantization(qdq_net: Callable[..., Any], tmp_path: Path) -> None:
    net = qdq_net()
    for name, array in net.constants.items():
        if name.endswith("_zp") and not name.endswith(".weight_zp"):
            net.constants[name] = array.astype(np.uint8)
    onnx.save(net.model(), tmp_path / "net.onnx")
    output = tmp_path / "net"
    says(3, "uint8", "build", tmp_path / "net.onnx", "--target", "tensorrt", "--output", output)
    assert not (tmp_path / "net.plan").exists()
