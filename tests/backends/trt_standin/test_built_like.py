"""An FP32 engine that stands beside another one is built with the other's options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.evaluation.gates import deployment_checks
from edgeres.evaluation.rebuild_config import built_like
from edgeres.evaluation.speed import measure_speed
from edgeres.evaluation.validate import validate
from edgeres.recipe.gates import Limits

BACKEND = get_backend("tensorrt")
OPTIONS = {"rest": "float16", "max_batch": "8", "timing_cache": "timing.bin"}
PICTURES = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
DATA = ArrayDataset("dark and bright", PICTURES, np.array([1, 1, 0, 0, 0]), ("a", "b"))


@pytest.fixture
def engine(install: Callable[[str], Any], qdq_file: Path, tmp_path: Path) -> Engine:
    install("10")
    options = {**OPTIONS, "timing_cache": str(tmp_path / "timing.bin")}
    config = BuildConfig("cuda:0", options=options)
    return BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)


@pytest.fixture
def configs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[BuildConfig]:
    """Settings of all builds after the first."""
    seen: list[BuildConfig] = []
    build = type(BACKEND).build

    def spy(self: Any, onnx: Path, out: Path, config: BuildConfig) -> Engine:
        seen.append(config)
        return build(self, onnx, out, config)

    monkeypatch.setattr(type(BACKEND), "build", spy)
    return seen


def test_a_probing_engine_keeps_all_but_caches(engine: Engine, qdq_file: Path) -> None:
    config = built_like(engine, BACKEND, qdq_file, threads=2)
    assert config.options == {"rest": "float16", "max_batch": "8"}
    assert config.shapes == engine.shapes
    assert (config.device, config.threads) == ("cuda:0", 2)


def test_the_baseline_of_validate(
    engine: Engine, configs: list[BuildConfig], qdq_file: Path
) -> None:
    plain = Preprocess(scale=1.0, mean=(40.0,), channels=1)
    validate(engine.path, DATA, plain, baseline=qdq_file)
    assert [config.options for config in configs] == [{"max_batch": "8"}]
    assert configs[0].shapes["input"].max == (8, 1, 4, 4)


def test_the_yardstick_of_a_speed_up(
    engine: Engine,
    configs: list[BuildConfig],
    qdq_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeres.benchmarking.benchmark.benchmark", _Stop())
    with pytest.raises(_BuiltError):
        measure_speed(engine, Limits(min_speedup=1.0), qdq_file, None)
    assert [config.options for config in configs] == [
        {"max_batch": "8"},
        {"max_batch": "8", "rest": "float16"},
    ]


@pytest.mark.parametrize(
    ("fp32_ms", "fp16_ms", "yardstick", "ratio"), [(4.0, 2.0, "fp16", 2.0), (4.0, 5.0, "fp32", 4.0)]
)
def test_a_speed_up_is_that_over_the_fastest_float_engine(
    engine: Engine,
    qdq_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    fp32_ms: float,
    fp16_ms: float,
    yardstick: str,
    ratio: float,
) -> None:
    times = {"fp32.plan": fp32_ms, "fp16.plan": fp16_ms, engine.path.name: 1.0}

    def measured(paths: list[Path], **_: Any) -> Any:
        assert paths[-1] == engine.path
        return SimpleNamespace(engines={str(path): _time(times[path.name]) for path in paths})

    monkeypatch.setattr("edgeres.benchmarking.benchmark.benchmark", measured)
    limits = Limits(min_speedup=3.0)
    speed = measure_speed(engine, limits, qdq_file, None)
    assert (speed.yardstick, speed.speedup) == (yardstick, ratio)
    (check,) = deployment_checks(limits, **vars(speed))
    assert check.outcome == ("pass" if ratio >= 3 else "fail")
    assert ("as fast as FP16" in check.reason) == (yardstick == "fp16")


def test_without_fp16_the_yardstick_is_fp32_and_that_is_told(
    engine: Engine, qdq_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = type(BACKEND).build

    def refuse(self: Any, onnx: Path, out: Path, config: BuildConfig) -> Engine:
        if config.options.get("rest") == "float16":
            raise ModelError("a weight is beyond 65504.")
        return build(self, onnx, out, config)

    monkeypatch.setattr(type(BACKEND), "build", refuse)
    monkeypatch.setattr(
        "edgeres.benchmarking.benchmark.benchmark",
        lambda paths, **_: SimpleNamespace(engines={str(path): _time(1.0) for path in paths}),
    )
    with pytest.warns(UserWarning, match="no FP16: a weight is beyond 65504"):
        speed = measure_speed(engine, Limits(min_speedup=1.0), qdq_file, None)
    assert speed.yardstick == "fp32"


def _time(p50_ms: float) -> Any:
    latency = SimpleNamespace(p50_ms=p50_ms, round_medians_ms=(p50_ms,) * 12, doubts=())
    return SimpleNamespace(latency=latency)


class _BuiltError(Exception):
    """All engines are built; their times are of no interest here."""


class _Stop:
    def __call__(self, *_: Any, **__: Any) -> None:
        raise _BuiltError
