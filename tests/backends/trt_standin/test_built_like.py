"""An FP32 engine that stands beside another one is built with the other's options."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation.rebuild_config import built_like
from edgeres.evaluation.speed import measure_speed
from edgeres.evaluation.validate import validate
from edgeres.recipe.checks import Limits

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
    assert [config.options for config in configs] == [{"max_batch": "8"}]


class _BuiltError(Exception):
    """All engines are built; their times are of no interest here."""


class _Stop:
    def __call__(self, *_: Any, **__: Any) -> None:
        raise _BuiltError
