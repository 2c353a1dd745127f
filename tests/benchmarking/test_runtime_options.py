"""Run-time options are found on a real engine whose speed depends on them, kept, and used."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.sidecar import read_engine, run_config, sidecar_path, write_tuning
from edgeres.benchmarking.benchmark import benchmark
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.benchmarking.memory import peak_memory
from edgeres.benchmarking.runtime_options import tune_runtime
from edgeres.errors import ArtefactError
from edgeres.system.environment import describe_environment

QUICK = MeasureSettings(seconds=0.1, rounds=5, min_runs=10, max_seconds=2.0, warmup_seconds=0.05)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    shape = ["N", 3, 8, 8]
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], "relu"),
            helper.make_node("Flatten", ["r"], ["y"], "flat"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 192])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "source.onnx")
    out = tmp_path / "model.onnx"
    backend.build(tmp_path / "source.onnx", out, BuildConfig())
    return out


@pytest.fixture
def slow_spinning(monkeypatch):
    """Makes ``spinning=true`` cost 3 ms a run and ``graph_optimization=extended`` answer wrong."""
    backend = get_backend("onnxruntime")
    load = type(backend).load

    def slow(self, engine, config):
        runner = load(self, engine, config)
        chosen = run_config(engine, config).options
        real = runner._infer

        def infer(feeds):
            answer = real(feeds)
            if chosen.get("spinning") != "false":
                time.sleep(0.003)
            if chosen.get("graph_optimization") == "extended":
                answer = {name: array + 1 for name, array in answer.items()}
            return answer

        runner._infer = infer
        return runner

    monkeypatch.setattr(type(backend), "load", slow)


def test_the_fastest_is_kept_with_its_gain_and_used(engine, slow_spinning) -> None:
    before = engine.read_bytes()
    found = tune_runtime(engine, search=QUICK, final=QUICK)
    assert found.kept
    assert found.options == {"spinning": "false"}
    assert found.ruled_out == ("graph_optimization=extended",)
    assert found.gain.value > 3
    kept = json.loads(sidecar_path(engine).read_text())["tuning"]
    assert kept["options"] == {"spinning": "false"}
    assert kept["gain"] == found.gain.value
    assert engine.read_bytes() == before
    used = run_config(read_engine(engine), BuildConfig())
    assert used.options == {"spinning": "false"}
    times = benchmark([engine], settings=QUICK).engines[str(engine)]
    assert times.latency.p50_ms < 3


def test_nothing_is_kept_where_nothing_helps(engine, monkeypatch) -> None:
    write_tuning(read_engine(engine), {"options": {"spinning": "false"}, "threads": 1})
    monkeypatch.setattr(
        type(get_backend("onnxruntime")), "runtime_options", lambda self: {"spinning": ("true",)}
    )
    monkeypatch.setattr("edgeres.benchmarking.runtime_options.usable_threads", lambda: 0)
    found = tune_runtime(engine, search=QUICK, final=QUICK)
    assert not found.kept
    assert "tuning" not in json.loads(sidecar_path(engine).read_text())


def test_what_is_given_comes_first_and_other_cpus_ignore_it(engine) -> None:
    write_tuning(read_engine(engine), {"options": {"spinning": "false"}, "threads": 1})
    here = read_engine(engine)
    given = BuildConfig(threads=2, options={"spinning": "true"})
    assert run_config(here, given) == given
    assert run_config(here, BuildConfig()).threads == 1
    assert run_config(here, BuildConfig(tuned=False)) == BuildConfig(tuned=False)
    record = json.loads(sidecar_path(engine).read_text())
    for changed in ({"cpu": "another"}, {"isa": ["avx2"]}, {"isa": None}):
        tuning = {**record["tuning"], **changed}
        sidecar_path(engine).write_text(json.dumps({**record, "tuning": tuning}))
        assert run_config(here, BuildConfig()) == BuildConfig()
    sidecar_path(engine).write_text(json.dumps({**record, "tuning": []}))
    with pytest.raises(ArtefactError, match="damaged"):
        run_config(here, BuildConfig())


def test_a_cpu_of_that_name_with_fewer_instruction_sets_is_another(engine, monkeypatch) -> None:
    write_tuning(read_engine(engine), {"options": {"spinning": "false"}, "threads": 1})
    whole = describe_environment()
    assert run_config(read_engine(engine), BuildConfig()).threads == 1
    less = dataclasses.replace(whole, isa=(*whole.isa[:-1], "another"))
    monkeypatch.setattr("edgeres.backends.sidecar.describe_environment", lambda *_: less)
    assert run_config(read_engine(engine), BuildConfig()) == BuildConfig()


def test_memory_counts_the_engine_and_not_this_process(engine) -> None:
    ballast = bytearray(300 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    found = peak_memory(engine, device="cpu", threads=1)
    if found is None:
        pytest.skip("this system does not tell resident memory")
    assert 0 < found.engine_bytes < 100 << 20
    assert found.engine_bytes < found.process_bytes < 300 << 20


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_given_options_go_before_tuned_ones_and_those_before_built_ones(
    engine, tmp_path, monkeypatch, name
) -> None:
    backend = get_backend(name)
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    option, (first, second, *_) = next(iter(backend.runtime_options().items()))
    out = tmp_path / name / f"model{backend.engine_suffix}"
    config = BuildConfig(options={option: first})
    built = backend.build(tmp_path / "source.onnx", out, config)
    used: list[str] = []
    check = type(backend).check
    monkeypatch.setattr(
        type(backend),
        "check",
        lambda self, config: (used.append(config.options[option]), check(self, config))[1],
    )
    backend.load(built, BuildConfig()).close()
    write_tuning(built, {"options": {option: second}, "threads": None})
    backend.load(built, BuildConfig()).close()
    backend.load(built, BuildConfig(tuned=False)).close()
    backend.load(built, config).close()
    assert used == [first, second, first, first]


def test_an_engine_built_with_a_slow_option_is_tuned_away_from_it(
    engine, tmp_path, slow_spinning
) -> None:
    backend = get_backend("onnxruntime")
    for value, found_options in (("true", {"spinning": "false"}), ("false", {})):
        config = BuildConfig(options={"spinning": value})
        built = backend.build(tmp_path / "source.onnx", tmp_path / value / "model.onnx", config)
        found = tune_runtime(built.path, search=QUICK, final=QUICK)
        assert {k: v for k, v in found.options.items() if k == "spinning"} == found_options
        assert run_config(built, BuildConfig()).options["spinning"] == "false"
