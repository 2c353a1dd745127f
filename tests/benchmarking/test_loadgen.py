"""MLPerf LoadGen: what it says is read right, and it runs on a real engine."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.benchmarking.loadgen import LoadGenSettings, _start, run_loadgen
from edgeres.benchmarking.loadgen_summary import parse_summary
from edgeres.cli import app
from edgeres.errors import ArtefactError, BackendMissingError, StageError, UsageError

VALID = """\
Scenario : SingleStream
90.0th percentile latency (ns) : 4447718
Result is : VALID
  Min duration satisfied : Yes
  Early stopping satisfied: Yes
Early Stopping Result:
 * Processed at least 64 queries (427).

================================================
Additional Stats
================================================
QPS w/ loadgen overhead         : 141.93
QPS w/o loadgen overhead        : 488.55

50.00 percentile latency (ns)   : 1217980
90.00 percentile latency (ns)   : 4447718
99.00 percentile latency (ns)   : 15116802
99.90 percentile latency (ns)   : 15184530
"""
INVALID = """\
Scenario : Server
Completed samples per second    : 47.05
Result is : INVALID
  Performance constraints satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
Early Stopping Result:
 * Run unsuccessful.
 * Would need to run at least 315 more queries,
 with the run being successful if every additional
 query were under latency.

================================================
Additional Stats
================================================
99.00 percentile latency (ns)   : 21310775
"""


def test_a_valid_run() -> None:
    found = parse_summary("single_stream", VALID)
    assert found.valid
    assert found.reason == ""
    assert found.samples_per_s == pytest.approx(488.55)
    assert found.percentiles_ms == pytest.approx(
        {"p50": 1.21798, "p90": 4.447718, "p99": 15.116802, "p999": 15.18453}
    )
    assert json.loads(json.dumps(found.to_dict()))["latency_ms"]["p50"] == 1.21798


def test_an_invalid_run_says_why_on_one_line() -> None:
    found = parse_summary("server", INVALID)
    assert not found.valid
    assert found.samples_per_s == pytest.approx(47.05)
    assert found.reason == (
        "Early stopping satisfied: NO; Run unsuccessful.; Would need to run at least 315 more "
        "queries, with the run being successful if every additional query were under latency."
    )


def test_a_summary_without_verdict_is_no_result() -> None:
    with pytest.raises(StageError, match="no verdict"):
        parse_summary("offline", "Scenario : Offline\n")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"scenario": "fast"}, "no scenario 'fast'"),
        ({"seconds": 0.0}, "above zero"),
        ({"seconds": math.inf}, "above zero"),
        ({"min_queries": 0}, "above zero"),
        ({"scenario": "server"}, "needs the rate"),
        ({"scenario": "server", "target_qps": -1.0}, "above zero"),
    ],
)
def test_senseless_settings_are_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LoadGenSettings(**bad)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("loadgen")
    weight = np.ones((16, 3, 5, 5), dtype=np.float32)  # large enough to take longer than LoadGen
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
            helper.make_node("GlobalAveragePool", ["c"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["y"], name="flat"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 48, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "net.onnx")
    out = folder / f"model{backend.engine_suffix}"
    backend.build(folder / "net.onnx", out, BuildConfig())
    return out


@pytest.mark.parametrize(
    "scenario",
    [
        "single_stream",
        pytest.param("multi_stream", marks=pytest.mark.slow),
        pytest.param("offline", marks=pytest.mark.slow),
    ],
)
def test_real_runs(engine: Path, scenario: str, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed")
    monkeypatch.chdir(tmp_path)
    found = run_loadgen(engine, LoadGenSettings(scenario=scenario, seconds=0.3, threads=1))
    assert found.scenario == scenario
    assert 0 < found.percentiles_ms["p50"] <= found.percentiles_ms["p99"]
    if scenario != "offline":  # whether the rate fits the duration depends on the machine there
        assert found.valid, found.reason
    assert list(tmp_path.iterdir()) == []  # LoadGen's logs do not end up where the user is


def test_a_server_run(engine: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed")
    settings = LoadGenSettings(
        scenario="server", seconds=0.2, min_queries=20, target_qps=100, threads=1
    )
    assert run_loadgen(engine, settings).percentiles_ms["p50"] > 0


@pytest.mark.parametrize("scenario", ["single_stream", "server"])
def test_an_engine_that_fails_ends_the_run(scenario: str, tmp_path: Path) -> None:
    loadgen = pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed")

    class Failing:
        samples = 4
        samples_per_s = 1e4

        def answer(self, loadgen, samples) -> None:
            raise StageError("the engine ran out of memory.")

    settings = LoadGenSettings(scenario=scenario, seconds=0.05, min_queries=5, target_qps=200)
    with pytest.raises(StageError, match="out of memory"):
        _start(loadgen, Failing(), settings, tmp_path)


def test_missing_loadgen_says_how_to_get_it(engine: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(BackendMissingError, match=r'pip install "edgeres\[loadgen\]"'):
        run_loadgen(engine)


def test_missing_engine_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no such engine"):
        run_loadgen(tmp_path / "none.onnx")


def test_the_command_runs_a_server(engine: Path) -> None:
    pytest.importorskip("mlperf_loadgen", reason="MLPerf LoadGen is not installed")
    arguments = ["benchmark", str(engine), "--scenario", "server", "--json", "--threads", "1"]
    result = CliRunner().invoke(
        app, [*arguments, "--target-qps", "100", "--seconds", "0.2", "--latency-bound-ms", "50"]
    )
    assert result.exit_code in (0, 1), result.output  # whether it is valid depends on the machine
    assert json.loads(result.stdout)["engines"][str(engine)]["scenario"] == "server"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--scenario", "offline", "--device", "cpu"], "--device: not for --scenario offline"),
        (["--scenario", "offline", "--batch-size", "1"], "--batch-size"),
        (["--scenario", "server", "--sustained", "1", "--tune-runtime"], "--sustained, --tune-r"),
        (["--target-qps", "10"], "--target-qps: only for MLPerf LoadGen"),
        (["--latency-bound-ms", "10"], "--latency-bound-ms: only"),
    ],
)
def test_options_that_a_scenario_would_ignore_are_refused(options, text: str) -> None:
    result = CliRunner().invoke(app, ["benchmark", "none.onnx", *options])
    assert result.exit_code == 2
    assert text in result.stderr
