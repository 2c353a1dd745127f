"""``benchmarks/tensorrt.py`` goes through on stand-ins; its numbers mean nothing here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "benchmarks" / "tensorrt.py"
SKIP = ["--skip", "torch", "--skip", "accuracy"]


@pytest.fixture(scope="module")
def program(load_program: Callable[[Path], Any]) -> Any:
    return load_program(PROGRAM)


@pytest.fixture
def folder(qdq_file: Path, tmp_path: Path) -> Path:
    """What a run of ``edgeres convert`` leaves, as far as the program reads it."""
    for name in ("baseline/model.onnx", "tensorrt/model.qdq.onnx"):
        (tmp_path / "run" / name).parent.mkdir(parents=True)
        shutil.copy(qdq_file, tmp_path / "run" / name)
    return tmp_path / "run"


def test_measures_three_engines_at_each_batch_size(
    install: Callable[[str], Any],
    program: Any,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("10")
    out = tmp_path / "numbers.json"
    arguments = ["--run", str(folder), "--batches", "1,4", "--seconds", "0.02", *SKIP]
    assert program.main([*arguments, "--cuda-graph", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["gpu"][0]["name"] == "NVIDIA Stand-In"
    assert report["int8_coverage"] == 1
    assert report["not_done"] == []
    assert {name: found["rest"] for name, found in report["engines"].items()} == {
        "fp32": "float32",
        "fp16": "float16",
        "int8": "float16",
    }
    for batch in ("1", "4"):
        assert list(report["batches"][batch]) == ["fp32", "fp16", "int8"]
        for result in report["batches"][batch].values():
            assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
            assert result["device_ms"] > 0
            assert result["batch_size"] == int(batch)
    printed = capsys.readouterr().out
    assert printed.count("int8") == 3
    assert "NVIDIA Stand-In" in printed


def test_without_a_gpu_it_does_what_can_be_done_and_says_what_cannot(
    folder: Path, tmp_path: Path
) -> None:
    # As a user runs it, as a program: it must not take itself for the module ``tensorrt``.
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    out = tmp_path / "numbers.json"
    arguments = ["--run", folder, "--device", "cpu", "--out", out, *SKIP]
    environment = {"PYTHONPATH": str(PROGRAM.parents[1]), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if "NVIDIA" in done.stdout:
        pytest.skip("there is a GPU")
    assert done.returncode == 4, done.stderr
    assert "NOT DONE: no GPU: " in done.stderr
    assert "NOT DONE: TensorRT engines were not run: no" in done.stderr
    report = json.loads(out.read_text())
    assert report["engines"]["int8"]["flavor"] == "tensorrt_rtx"
    assert report["int8_coverage"] == 1  # read from the plan that was built all the same
    assert report["batches"] == {}
