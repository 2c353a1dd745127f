"""``edgeres benchmark``: three programs of the library behind one command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.benchmarking.loadgen_summary import LoadGenResult
from edgeres.devices.fleet import FleetResult
from edgeres.errors import BackendMissingError, UsageError

from .conftest import invoke

TUNED = "edgeres.benchmarking.tuned.benchmark_engines"
LOADGEN = "edgeres.benchmarking.loadgen.run_engines"
FLEET = "edgeres.devices.fleet.benchmark_fleet"


@pytest.fixture
def measured(note, monkeypatch):
    monkeypatch.setattr("edgeres.report.command_tables.benchmark_table", lambda *_: "a table")

    def exits_with(code: int):
        benchmark = SimpleNamespace(exit_code=code)
        content = SimpleNamespace(
            benchmark=benchmark, tunings={}, to_dict=lambda: {"stable": code == 0}
        )
        content.named = lambda names: content
        return note(TUNED, content)

    return exits_with


@pytest.mark.parametrize("code", [0, 1])
def test_unstable_times_are_exit_code_1(measured, code):
    measured(code)
    result = invoke("benchmark", "a.onnx", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == {"stable": code == 0}


def test_options_reach_the_library(measured):
    seen = measured(0)
    result = invoke(
        "benchmark", "a.onnx", "b.onnx", "--batch-size", 4, "--device", "cpu", "--threads", 2,
        "--seconds", 1.5, "--sustained", 9, "--tune-runtime",
        "--meter", "none-such",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert seen.args == ([Path("a.onnx"), Path("b.onnx")],)
    settings = seen.options.pop("settings")
    assert settings.seconds == 1.5
    del seen.options["listener"]
    meter = seen.options.pop("meter")
    with pytest.raises(UsageError, match=r"the meter `none-such`: it cannot be started"):
        meter.__enter__()
    assert seen.options == {
        "tune": True, "batch_size": 4, "device": "cpu", "threads": 2, "sustained_s": 9.0,
    }  # fmt: skip
    assert "a table" in result.stdout


def test_loadgen_runs_each_engine_and_its_verdict_is_the_exit_code(note):
    good = LoadGenResult("server", True, "", 10.0, {"p99": 3.0}, "")
    bad = LoadGenResult("server", False, "too slow", 10.0, {"p99": 30.0}, "")
    seen = note(LOADGEN, {"a.onnx": good, "b.onnx": bad})
    result = invoke(
        "benchmark", "a.onnx", "b.onnx", "--scenario", "server", "--target-qps", 10, "--json"
    )
    assert result.exit_code == 1
    assert json.loads(result.stdout)["engines"]["b.onnx"]["valid"] is False
    _, settings = seen.args
    assert (settings.scenario, settings.target_qps, settings.latency_bound_ms) == (
        "server", 10.0, 15.0,
    )  # fmt: skip
    note(LOADGEN, {"a.onnx": good})
    told = invoke("benchmark", "a.onnx", "--scenario", "server", "--target-qps", 10)
    assert told.exit_code == 0
    assert "VALID" in told.stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--target-qps", 5], "--target-qps: only for MLPerf LoadGen"),
        (["--scenario", "server", "--batch-size", 2], "--batch-size: not for --scenario server"),
        (["--scenario", "fast"], "no scenario 'fast'"),
        (["--device", "ssh://pi", "--tune-runtime"], "are for this machine only"),
        (["--device", "ssh://pi", "--meter", "x"], "are for this machine only"),
        (["--scenario", "offline", "--meter", "x"], "--meter: not for --scenario offline"),
        (["--fleet", "none.yaml"], "a fleet file cannot be read there"),
        (["--device", "ssh://pi:secret@host"], "--device: expected ssh://"),
    ],
)
def test_options_that_would_be_ignored_are_refused(measured, note, options, told):
    seen = [measured(0), note(LOADGEN), note(FLEET)]
    result = invoke("benchmark", "a.onnx", *options)
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert [one.calls for one in seen] == [0, 0, 0]


def test_a_single_device_that_fails_is_the_error_of_the_command(note):
    error = BackendMissingError("pi: no such host.")
    seen = note(FLEET, [FleetResult("pi", None, error)])
    result = invoke("benchmark", "a.onnx", "--device", "ssh://me@pi", "--threads", 3, "--json")
    assert result.exit_code == error.exit_code
    assert json.loads(result.stdout)["error"]["message"] == "pi: no such host."
    (devices, _) = seen.args
    assert [(one.ssh.host, one.ssh.user, one.threads) for one in devices] == [("pi", "me", 3)]


def test_a_device_of_a_fleet_that_fails_is_a_row_of_its_table(note, tmp_path):
    (tmp_path / "fleet.yaml").write_text("devices: {here: {address: local}}\n")
    error = BackendMissingError("pi: no such host.")
    note(FLEET, [FleetResult("pi", None, error)])
    result = invoke("benchmark", "a.onnx", "--fleet", tmp_path / "fleet.yaml", "--json")
    assert result.exit_code == error.exit_code
    assert json.loads(result.stdout)["devices"]["pi"]["error"]["message"] == "pi: no such host."
