"""``benchmarks/tensorrt_engines.py`` goes through on stand-ins; its numbers mean nothing here."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[3] / "benchmarks" / "tensorrt_engines.py"


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("tensorrt_engines", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measures_three_engines_at_each_batch_size(
    install: Callable[[str], Any],
    program: Any,
    qdq_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install("10")
    out = tmp_path / "numbers.json"
    arguments = [str(qdq_file), str(qdq_file), "--batches", "1,4", "--seconds", "0.02"]
    assert program.main([*arguments, "--cuda-graph", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["gpu"][0]["name"] == "NVIDIA Stand-In"
    assert report["coverage"] == 1
    assert {name: found["rest"] for name, found in report["versions"].items()} == {
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
    assert printed.count("int8") == 2
    assert "NVIDIA Stand-In" in printed


def test_without_a_driver_it_says_so(
    program: Any,
    qdq_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    monkeypatch.setattr("edgeres.backends._tensorrt_cuda.LIBRARY", "libnothing.so.1")
    assert program.main([str(qdq_file), str(qdq_file), "--flavor", "tensorrt_rtx"]) == 4
    assert "no NVIDIA driver here" in capsys.readouterr().err
