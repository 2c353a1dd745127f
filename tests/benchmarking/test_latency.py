"""Latency: percentiles, turns, and every reason to doubt them, on a made-up clock."""

from __future__ import annotations

import gc
import json
import math
import time

import numpy as np
import pytest

from edgeres.benchmarking.latency import MeasureSettings, _percentile, measure
from edgeres.benchmarking.speedup import speedup
from edgeres.errors import DataError, UsageError

QUICK = MeasureSettings(seconds=1.0, rounds=10, min_runs=100, warmup_seconds=1.0, pause_seconds=0.0)


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeres.benchmarking.latency.other_load", lambda start, end: 0.0)


def test_percentiles_by_hand(clock, engine, inputs) -> None:
    # Every run takes 2 ms, each tenth 3 ms, each hundredth 5 ms.
    def cost(run, images):
        return 5.0 if run % 100 == 0 else 3.0 if run % 10 == 0 else 2.0

    steady = MeasureSettings(seconds=10.0, rounds=10, warmup_seconds=1.0)
    found = measure({"a": engine(cost)}, inputs, settings=steady, clock=clock)["a"]
    assert found.p50_ms == pytest.approx(2.0, abs=0.001)
    assert found.p90_ms == pytest.approx(2.0, abs=1.001)
    assert found.p99_ms == pytest.approx(3.0, abs=0.001)
    assert found.p999_ms == pytest.approx(5.0, abs=0.001)
    assert found.min_ms == pytest.approx(2.0, abs=0.001)
    assert found.mean_ms == pytest.approx(2.12, abs=0.02)
    assert found.throughput_per_s == pytest.approx(1000 / 2.12, rel=0.01)
    assert found.stable, found.doubts
    assert len(found.round_medians_ms) == 10


def test_percentiles_are_nearest_ranks() -> None:
    times = np.arange(1.0, 11.0)
    assert [_percentile(times, percent) for percent in (50, 90, 99)] == [5.0, 9.0, 10.0]


def test_runs_right_after_another_engine_are_not_counted(clock, engine, inputs) -> None:
    last: list[str] = []

    def disturbed(name: str):
        def cost(run, images):
            recent = last[-2:]
            last.append(name)
            return 2.0 if recent == [name, name] else 9.0

        return engine(cost)

    found = measure({"a": disturbed("a"), "b": disturbed("b")}, inputs, settings=QUICK, clock=clock)
    assert found["a"].p99_ms == pytest.approx(2.0, abs=0.01)
    assert found["b"].p99_ms == pytest.approx(2.0, abs=0.01)


def test_batch_counts_in_throughput(clock, engine, inputs) -> None:
    batches = [np.repeat(images, 8, axis=0) for images in inputs]
    found = measure({"a": engine(4.0)}, batches, settings=QUICK, clock=clock)["a"]
    assert found.batch_size == 8
    assert found.throughput_per_s == pytest.approx(2000, rel=0.02)


def test_engines_take_turns_in_alternating_order(clock, engine, inputs) -> None:
    order: list[str] = []

    def watched(name: str):
        built = engine(1.0)
        cost = built.cost
        built.cost = lambda run, images: (order.append(name), cost(run, images))[1]
        return built

    measure({"a": watched("a"), "b": watched("b")}, inputs, settings=QUICK, clock=clock)
    turns = "".join(name for i, name in enumerate(order) if i == 0 or order[i - 1] != name)
    # Warm-up a b, then ten rounds ab ba ab ... whose equal neighbours join, then the audits a b.
    assert turns == "abab" + "ababababa" + "b"
    share = order.count("a") / len(order)
    assert 0.45 < share < 0.55


def test_slow_minute_hits_both_and_leaves_the_ratio(clock, engine, inputs) -> None:
    def slow(factor):
        return lambda run, images: factor * (2.0 if clock.time > 1.5e9 else 1.0)

    found = measure(
        {"fp32": engine(slow(4.0)), "int8": engine(slow(2.0))},
        inputs,
        settings=QUICK,
        clock=clock,
    )
    ratio = speedup(found["fp32"], found["int8"])
    assert ratio.value == pytest.approx(2.0, rel=0.05)
    assert ratio.low == pytest.approx(2.0, abs=0.01)
    assert ratio.high == pytest.approx(2.0, abs=0.01)
    assert any("drifted" in doubt for doubt in found["int8"].doubts)


def test_ratio_is_sure_when_turns_agree_and_unsure_when_not(clock, engine, inputs) -> None:
    rng = np.random.default_rng(1)
    steady = measure({"a": engine(3.0), "b": engine(1.5)}, inputs, settings=QUICK, clock=clock)
    sure = speedup(steady["a"], steady["b"])
    assert sure.high - sure.low < 0.1

    def shaky(run, images):
        return 1.5 + 3 * float(rng.random()) * (run // 40 % 2)

    loose = measure({"a": engine(3.0), "b": engine(shaky)}, inputs, settings=QUICK, clock=clock)
    unsure = speedup(loose["a"], loose["b"])
    assert unsure.high - unsure.low > 0.2
    assert unsure.low <= unsure.value <= unsure.high
    assert json.loads(json.dumps(sure.to_dict()))["speedup"] == sure.value


def test_ratio_needs_a_common_measurement(clock, engine, inputs) -> None:
    one = measure({"a": engine(3.0)}, inputs, settings=QUICK, clock=clock)["a"]
    other = measure(
        {"a": engine(3.0)},
        inputs,
        settings=MeasureSettings(seconds=1.0, rounds=5),
        clock=clock,
    )["a"]
    with pytest.raises(UsageError, match="10 and 5 rounds"):
        speedup(one, other)


def test_warm_up_waits_for_steady_times(clock, engine, inputs) -> None:
    def cost(run, images):
        return 50.0 if run == 1 else max(2.0, 12.0 - 0.1 * run)

    found = measure({"a": engine(cost)}, inputs, settings=QUICK, clock=clock)["a"]
    assert found.first_ms == pytest.approx(50.0, abs=0.01)
    assert found.p99_ms == pytest.approx(2.0, abs=0.01)
    assert found.warmup_runs > 90
    assert found.stable, found.doubts


def test_times_that_never_settle_are_doubted(clock, engine, inputs) -> None:
    rng = np.random.default_rng(1)

    def cost(run, images):
        return 1.0 + 3.0 * float(rng.random())

    found = measure({"a": engine(cost)}, inputs, settings=QUICK, clock=clock)["a"]
    assert "the warm-up ended before the times settled" in found.doubts


def test_few_turns_are_doubted(clock, engine, inputs) -> None:
    few = MeasureSettings(seconds=1.0, rounds=9, warmup_seconds=1.0, pause_seconds=0.0)
    found = measure({"a": engine(2.0)}, inputs, settings=few, clock=clock)["a"]
    assert found.doubts == ("9 turns are too few to tell how they differ, at least 10 would do",)


def test_throttling_is_doubted(clock, engine, inputs) -> None:
    def cost(run, images):
        return 2.0 * (1 + 0.4 * clock.time / 1e9)

    found = measure({"a": engine(cost)}, inputs, settings=QUICK, clock=clock)["a"]
    assert any("drifted by +" in doubt for doubt in found.doubts)
    assert not found.to_dict()["stable"]


def test_spiky_times_are_doubted(clock, engine, inputs) -> None:
    def cost(run, images):
        return 9.0 if run % 7 == 0 else 2.0

    found = measure({"a": engine(cost)}, inputs, settings=QUICK, clock=clock)["a"]
    assert any("one run in ten" in doubt for doubt in found.doubts)


def test_other_load_is_doubted(clock, engine, inputs, monkeypatch) -> None:
    monkeypatch.setattr("edgeres.benchmarking.latency.other_load", lambda start, end: 1.4)
    monkeypatch.setattr("edgeres.benchmarking.latency.usable_cpus", lambda: 2)
    found = measure({"a": engine(2.0)}, inputs, settings=QUICK, clock=clock)["a"]
    assert found.doubts == ("other work kept 1.4 of 2 CPUs busy",)


def test_clock_changes_are_doubted(clock, engine, inputs, monkeypatch) -> None:
    speeds = iter([100, 100, 140, 100, 140, 140, 100, 140, 100, 140])
    monkeypatch.setattr("edgeres.benchmarking.latency.fixed_work_ns", lambda clock: next(speeds))
    found = measure({"a": engine(2.0)}, inputs, settings=QUICK, clock=clock)["a"]
    assert any("speed of the CPU" in doubt for doubt in found.doubts)


def test_cached_answers_are_doubted(clock, engine, inputs) -> None:
    seen: set[bytes] = set()

    def cost(run: int, images: np.ndarray) -> float:
        key = images.tobytes()
        hit = key in seen
        seen.add(key)
        return 0.2 if hit else 3.0

    found = measure({"a": engine(cost)}, inputs, settings=QUICK, clock=clock)["a"]
    assert any("answers are cached" in doubt for doubt in found.doubts)


def test_load_alone_never_looks_like_a_cache(clock, engine, inputs) -> None:
    rng = np.random.default_rng(4)
    busy = engine(lambda run, images: 1.0 + (20.0 if rng.random() < 0.5 else 0.0))
    for _ in range(20):
        found = measure({"a": busy}, inputs, settings=QUICK, clock=clock)["a"]
        assert not any("cached" in doubt for doubt in found.doubts)


def test_constant_answers_are_doubted(clock, engine, inputs) -> None:
    dead = engine(2.0)
    dead.answer = lambda run, images: np.zeros((len(images), 2), dtype=np.float32)
    found = measure({"a": dead}, inputs, settings=QUICK, clock=clock)["a"]
    assert found.doubts == ("the answers do not depend on the input",)


def test_other_answers_while_timed_are_doubted(clock, engine, inputs) -> None:
    cheat = engine(2.0)
    honest = cheat.answer
    cheat.answer = lambda run, images: honest(run, images) * (1.0 if run < 50 else 2.0)
    found = measure({"a": cheat}, inputs, settings=QUICK, clock=clock)["a"]
    assert any("answers of measured runs differ" in doubt for doubt in found.doubts)


def test_slow_engines_end_in_time_with_a_doubt(clock, engine, inputs) -> None:
    settings = MeasureSettings(
        seconds=1.0, rounds=10, min_runs=100, max_seconds=20.0, warmup_seconds=3.0
    )
    found = measure({"a": engine(1000.0)}, inputs, settings=settings, clock=clock)["a"]
    assert found.runs < 30
    assert any("too few for a 99th percentile" in doubt for doubt in found.doubts)


def test_fast_rounds_go_on_until_there_are_enough_runs(clock, engine, inputs) -> None:
    found = measure({"a": engine(50.0)}, inputs, settings=QUICK, clock=clock)["a"]
    assert 100 <= found.runs <= 110


def test_overhead_is_what_measuring_nothing_takes(clock, engine, inputs) -> None:
    found = measure(
        {"a": engine(2.0)},
        inputs,
        settings=QUICK,
        nothing=engine(lambda run, images: 0.01),
        clock=clock,
    )
    assert set(found) == {"a"}
    assert found["a"].overhead_ms == pytest.approx(0.01, abs=0.001)


def test_json_has_the_contracts_names(clock, engine, inputs) -> None:
    found = measure({"a": engine(2.0)}, inputs, settings=QUICK, clock=clock)["a"]
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert {"p50", "p90", "p99"} <= set(told["latency_ms"])
    assert told["latency_ms"]["p50"] == found.p50_ms


def test_progress_and_collector(clock, engine, inputs) -> None:
    steps: list[tuple[int, int]] = []
    states: list[bool] = []
    watched = engine(2.0)
    cost = watched.cost
    watched.cost = lambda run, images: (states.append(gc.isenabled()), cost(run, images))[1]
    measure(
        {"a": watched},
        inputs,
        settings=QUICK,
        clock=clock,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[0] == (1, 10)
    assert steps[-1] == (10, 10)
    assert not any(states[:100])
    assert gc.isenabled()


def test_wall_clock_is_never_asked(clock, engine, inputs, monkeypatch) -> None:
    # Somebody sets the machine's date back: nothing here may look at it.
    def jump() -> float:
        raise AssertionError("time.time() was asked")

    monkeypatch.setattr(time, "time", jump)
    assert measure({"a": engine(2.0)}, inputs, settings=QUICK, clock=clock)["a"].runs >= 100


def test_one_input_is_refused(clock, engine, inputs) -> None:
    with pytest.raises(UsageError, match="two different inputs"):
        measure({"a": engine(1.0)}, inputs[:1], clock=clock)
    with pytest.raises(UsageError, match="two different inputs"):
        measure({"a": engine(1.0)}, [inputs[0], inputs[0].copy()], clock=clock)
    with pytest.raises(UsageError, match="at least one engine"):
        measure({}, inputs, clock=clock)


def test_wrong_input_shape_is_told(clock, engine) -> None:
    images = [np.full((1, 3, 2, 2), value, dtype=np.float32) for value in (1, 2)]
    with pytest.raises(DataError, match=r"\(N, 1, 2, 2\)"):
        measure({"a": engine(1.0)}, images, clock=clock)


@pytest.mark.parametrize(
    "bad",
    [
        {"seconds": 0.0},
        {"pause_seconds": -1.0},
        {"seconds": math.nan},
        {"warmup_seconds": -1.0},
        {"rounds": 2},
    ],
)
def test_zero_length_benchmarks_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        MeasureSettings(**bad)
