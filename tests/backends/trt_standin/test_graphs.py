"""CUDA graphs: a context for each, a bound, a plain run where nothing can be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig, Engine, ShapeRange
from edgeres.errors import StageError

from .conftest import BACKEND
from .test_run import expected, images

Install = Callable[[str], Any]
REPLAY = BuildConfig("cuda:0", options={"cuda_graph": "true"})


def check(runner: Any, batch: int) -> None:
    feed = images(batch)
    np.testing.assert_allclose(runner.infer({"input": feed})["logits"], expected(feed), rtol=1e-6)


def test_a_graph_is_right_after_another_shape_ran(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    with BACKEND.load(built(), REPLAY) as runner:
        for batch in (1, 2, 1, 2, 1):
            check(runner, batch)
    assert trt.contexts == 3, "the lane's own and one for each graph"
    assert driver.launches == 5


def test_the_least_used_graph_goes_first(
    install: Install,
    driver: Any,
    built: Callable[..., Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("11")
    monkeypatch.setattr("edgeres.backends.tensorrt.graphs.MOST_GRAPHS", 2)
    with BACKEND.load(built(), REPLAY) as runner:
        for batch in (1, 2, 1, 3):  # 3 takes the place of 2
            check(runner, batch)
        assert driver.alive().count("executable graph") == 2
        made = driver.made.count("executable graph")
        check(runner, 1)
        assert driver.made.count("executable graph") == made
        check(runner, 2)
        assert driver.made.count("executable graph") == made + 1


def test_sizes_besides_the_batch_are_not_recorded(
    install: Install, driver: Any, qdq_file: Any
) -> None:
    trt = install("10")
    trt.shape = (-1, 1, -1, 4)
    sizes = ((1, 1, 4, 4), (1, 1, 4, 4), (4, 1, 4, 4))
    config = BuildConfig("cuda:0", shapes={"input": ShapeRange(*sizes)})
    engine = BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)
    with BACKEND.load(engine, REPLAY) as runner:
        check(runner, 1)
    assert driver.launches == 0


def test_what_cannot_be_recorded_runs_plainly_and_is_told(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    trt.capturable = False
    with BACKEND.load(built(), REPLAY) as runner:
        with pytest.warns(UserWarning, match="without a CUDA graph: .*not in a recording"):
            check(runner, 1)
        check(runner, 1)  # told once
    assert driver.launches == 0


@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags"]
)
def test_what_the_driver_does_not_record_runs_plainly(
    install: Install, driver: Any, built: Callable[..., Engine], function: str
) -> None:
    install("10")
    driver.fails[function] = 901
    told = pytest.warns(UserWarning, match=f"without a CUDA graph: CUDA: {function} failed")
    with BACKEND.load(built(), REPLAY) as runner, told:
        check(runner, 1)
    assert driver.launches == 0


def test_how_a_recording_ended_does_not_hide_why(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    with BACKEND.load(built(), REPLAY) as runner:
        trt.says = "no such kernel"
        driver.fails["cuStreamEndCapture"] = 901
        with (
            pytest.warns(UserWarning, match="no such kernel"),
            pytest.raises(StageError, match="could not run: no such kernel"),
        ):
            runner.infer({"input": images(1)})


def test_the_first_time_is_without_warm_up(install: Install, built: Callable[..., Engine]) -> None:
    install("10")
    with BACKEND.load(built(), REPLAY) as runner:
        check(runner, 1)
        first = runner.device_ms
        check(runner, 1)
        assert first == runner.device_ms
