"""Engines of a GPU and an NPU that this machine has not: not run on hardware.

The list of devices and what they say of themselves is a stand-in. What computes in their place is
this machine's CPU, by OpenVINO itself, so answers, layers and the kept models are real ones of it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from edgeres.backends.base import BuildConfig
from edgeres.backends.openvino import backend, run
from edgeres.backends.openvino.backend import BACKEND
from edgeres.backends.openvino.layers import profiled_layers
from edgeres.benchmarking.benchmark import benchmark
from edgeres.benchmarking.latency import MeasureSettings
from edgeres.cli import app
from edgeres.errors import BackendMissingError
from edgeres.system.user_cache import clean_compiled, compiled_folder, user_cache

pytest.importorskip("openvino", reason="openvino is not installed")

TOLD = {
    "GPU.0": {
        "FULL_DEVICE_NAME": "Intel Arc A380",
        "GPU_DRIVER_VERSION": "24.35",
        "GPU_EXECUTION_UNITS_COUNT": 128,
        "OPTIMIZATION_CAPABILITIES": ["FP32", "FP16", "INT8"],
    },
    "NPU": {
        "FULL_DEVICE_NAME": "Intel AI Boost",
        "NPU_DRIVER_VERSION": "1004",
        "NPU_MAX_TILES": 6,
        "OPTIMIZATION_CAPABILITIES": ["FP16", "INT8"],
    },
}


class Compiled:
    """A model of the CPU that says it is a device's."""

    def __init__(self, real: Any, device: str) -> None:
        self._real, self._device = real, device

    def get_property(self, name: str) -> Any:
        return [self._device] if name == "EXECUTION_DEVICES" else self._real.get_property(name)

    def create_infer_request(self) -> Any:
        return self._real.create_infer_request()


class Machine:
    """A CPU, a GPU and an NPU by name."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.available_devices = ["CPU", *TOLD]
        self.settings: dict[str, dict[str, Any]] = {}

    def get_property(self, name: str, what: str) -> Any:
        if name == "CPU":
            return self._real.get_property(name, what)
        if what not in TOLD[name]:
            raise RuntimeError(f"no property {what}")
        return TOLD[name][what]

    def read_model(self, path: Path) -> Any:
        return self._real.read_model(path)

    def set_property(self, name: str, values: dict[str, Any]) -> None:
        self._real.set_property(name, values)

    def compile_model(self, model: Any, name: str, settings: dict[str, Any]) -> Any:
        self.settings[name] = settings
        computed = settings | {"INFERENCE_PRECISION_HINT": "f32"}
        computed.pop("DYNAMIC_QUANTIZATION_GROUP_SIZE", None)
        return Compiled(self._real.compile_model(model, "CPU", computed), name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stand_in = Machine(run.core())
    monkeypatch.setattr(backend, "core", lambda: stand_in)
    monkeypatch.setattr(run, "core", lambda: stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("device", "used"),
    [
        ("cpu", "CPU"),
        ("gpu", "GPU.0"),
        ("gpu:0", "GPU.0"),
        ("npu", "NPU"),
        ("auto", "GPU.0"),
        ("gpu:1", None),
    ],
)
def test_each_name_is_used_or_refused(
    machine: Machine, network: Path, tmp_path: Path, device: str, used: str | None
) -> None:
    out = tmp_path / "net.xml"
    if used is None:
        with pytest.raises(BackendMissingError, match="does not list gpu:1 here; it lists cpu, "):
            BACKEND.build(network, out, BuildConfig(device))
        assert not machine.settings
        assert not out.exists()
        return
    engine = BACKEND.build(network, out, BuildConfig(device))
    assert engine.device == {"CPU": "cpu", "GPU.0": "gpu:0", "NPU": "npu"}[used]
    with BACKEND.load(engine, BuildConfig(engine.device)):
        assert set(machine.settings) == {used}


@pytest.mark.parametrize("device", ["gpu", "gpu:1", "npu"])
def test_the_command_refuses_what_this_machine_has_not(
    network: Path, tmp_path: Path, device: str
) -> None:
    if BACKEND.devices() != ("cpu",):
        pytest.skip("this machine has more than a CPU")
    command = ["build", str(network), "--output", str(tmp_path / "net.xml"), "--device", device]
    told = CliRunner().invoke(app, [*command, "--target", "openvino"])
    assert told.exit_code == 4, told.output
    assert f"OpenVINO does not list {device} here; it lists cpu" in " ".join(told.output.split())
    assert not list(tmp_path.glob("*.xml"))


def test_compiled_models_are_kept_by_device_and_driver(
    machine: Machine, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = set()
    for device in ("gpu", "npu"):
        BACKEND.build(network, tmp_path / f"{device}.xml", BuildConfig(device))
        place = Path(machine.settings["GPU.0" if device == "gpu" else "NPU"]["CACHE_DIR"])
        assert place.parent == user_cache() / "compiled"
        assert list(place.glob("*.blob"))  # OpenVINO itself put it there
        places.add(place)
    monkeypatch.setitem(TOLD["NPU"], "NPU_DRIVER_VERSION", "1005")
    BACKEND.build(network, tmp_path / "later.xml", BuildConfig("npu"))
    places.add(Path(machine.settings["NPU"]["CACHE_DIR"]))
    assert len(places) == 3
    BACKEND.build(network, tmp_path / "cpu.xml", BuildConfig("cpu"))
    assert "CACHE_DIR" not in machine.settings["CPU"]


def test_a_kept_model_is_taken_and_answers_alike(
    machine: Machine, network: Path, tmp_path: Path, images: NDArray[np.float32]
) -> None:
    engine = BACKEND.build(network, tmp_path / "net.xml", BuildConfig("gpu"))
    place = Path(machine.settings["GPU.0"]["CACHE_DIR"])
    answers = []
    for _ in range(2):
        with BACKEND.load(engine, BuildConfig("gpu")) as runner:
            answers.append(runner.infer({"input": images[:1]})["logits"])
        kept = {path: path.stat().st_mtime_ns for path in place.glob("*.blob")}
        if len(answers) == 1:
            first = kept
    assert kept == first
    np.testing.assert_array_equal(*answers)


def test_where_nothing_can_be_kept_it_runs(
    machine: Machine, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    BACKEND.build(network, tmp_path / "net.xml", BuildConfig("npu"))
    assert "CACHE_DIR" not in machine.settings["NPU"]


def test_clean_removes_what_is_old_or_all(machine: Machine, tmp_path: Path) -> None:
    folders = [compiled_folder("some", {"driver": str(number)}) for number in range(2)]
    old, new = (folder for folder in folders if folder is not None)
    (old / "a.blob").write_bytes(b"12345")
    month = time.time() - 31 * 24 * 3600
    os.utime(old, (month, month))
    assert clean_compiled(dry_run=True) == ([old.name], 5)
    assert old.is_dir()
    told = CliRunner().invoke(app, ["clean", str(tmp_path / "none")])
    assert (told.exit_code, old.exists(), new.exists()) == (0, False, True), told.output
    assert "1 folders of compiled models removed" in told.output
    told = CliRunner().invoke(app, ["clean", str(tmp_path / "none"), "--all"])
    assert (told.exit_code, new.exists()) == (0, False)
    assert CliRunner().invoke(app, ["clean", str(tmp_path / "none")]).exit_code == 3


def test_the_cpu_takes_turns_with_a_device(machine: Machine, network: Path, tmp_path: Path) -> None:
    engine = BACKEND.build(network, tmp_path / "net.xml", BuildConfig("gpu"))
    settings = MeasureSettings(seconds=0.05)
    found = benchmark([engine.path], settings=settings, cpu_beside=True).to_dict()["engines"]
    name = str(engine.path)
    assert {key: row["device"] for key, row in found.items()} == {
        name: "gpu:0",
        f"{name} on cpu": "cpu",
    }
    assert found[name]["versions"]["execution units"] == "128"
    assert found[f"{name} on cpu"]["speedup"] > 0
    plain = BACKEND.build(network, tmp_path / "cpu.xml", BuildConfig("cpu"))
    assert len(benchmark([plain.path], settings=settings, cpu_beside=True).engines) == 1


def test_tiles_and_driver_are_facts_of_the_place(machine: Machine) -> None:
    assert BACKEND.place("npu") == {"device": "Intel AI Boost", "driver": "1004", "tiles": "6"}
    assert BACKEND.place("gpu")["execution units"] == "128"


def test_layers_are_those_of_the_device(machine: Machine, network: Path, tmp_path: Path) -> None:
    engine = BACKEND.build(network, tmp_path / "net.xml", BuildConfig("gpu"))
    layers = BACKEND.layers(engine)
    assert machine.settings["GPU.0"]["PERF_COUNT"] is True
    assert {"stem", "one", "two"} <= {node for layer in layers for node in layer.nodes}


def test_a_device_that_does_not_tell_its_layers_is_no_traceback(
    machine: Machine, network: Path, tmp_path: Path
) -> None:
    engine = BACKEND.build(network, tmp_path / "net.xml", BuildConfig("npu"))

    def mute() -> Any:
        raise RuntimeError("get_runtime_model is not implemented")

    with BACKEND.load(engine, BuildConfig("npu")) as runner:
        compiled = SimpleNamespace(get_runtime_model=mute)
        silent = SimpleNamespace(
            device=runner.device,
            compiled=compiled,
            profile=lambda: [],  # type: ignore[attr-defined]
        )
        with pytest.raises(BackendMissingError, match="does not tell which layers npu runs"):
            profiled_layers(runner.model, silent)  # type: ignore[arg-type, attr-defined]
