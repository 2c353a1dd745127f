"""A benchmark that first finds run-time options: each engine is tuned, then all are measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from edgeres.benchmarking import tuned
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.system.progress import Silent

PATHS = [Path("a.onnx"), Path("b.onnx")]


class Started(Silent):
    def __init__(self) -> None:
        self.labels: list[str] = []

    def started(self, stage: str) -> None:
        self.labels.append(stage)


def measured(monkeypatch, *, tune: bool):
    heard, asked = Started(), {}

    def benchmark(paths, **options):
        asked.update(options, paths=paths)
        return SimpleNamespace(to_dict=lambda: {"engines": {"a.onnx": {"p50": 1}, "b.onnx": {}}})

    def tune_runtime(path, **options):
        return SimpleNamespace(to_dict=lambda: {"of": path.name, "isolate": options["isolate"]})

    monkeypatch.setattr(tuned, "benchmark", benchmark)
    monkeypatch.setattr(tuned, "tune_runtime", tune_runtime)
    result = tuned.benchmark_engines(
        PATHS, tune=tune, batch_size=2, device=None, threads=3, settings=MeasureSettings(),
        sustained_s=None, meter=None, listener=heard,
    )  # fmt: skip
    return result, heard.labels, asked


def test_each_tuning_stands_beside_the_times_of_its_engine(monkeypatch):
    result, labels, asked = measured(monkeypatch, tune=True)
    assert labels == ["tune a.onnx", "tune b.onnx", "benchmark"]
    assert result.to_dict()["engines"]["a.onnx"] == {
        "p50": 1, "tuning": {"of": "a.onnx", "isolate": True},
    }  # fmt: skip
    assert (asked["paths"], asked["batch_size"], asked["threads"]) == (PATHS, 2, 3)
    assert (asked["isolate"], asked["memory"]) == (True, True)


def test_without_it_nothing_is_tuned(monkeypatch):
    result, labels, _ = measured(monkeypatch, tune=False)
    assert labels == ["benchmark"]
    assert result.tunings == {}
    assert "tuning" not in result.to_dict()["engines"]["a.onnx"]
