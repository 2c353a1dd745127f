"""OpenVINO's devices by name: listed or refused, and never the CPU without a word.

What a GPU or an NPU says of itself has a stand-in, which this machine cannot be asked for; the list
of this machine, its refusals and the CPU are real.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from edgeres.backends.base import BuildConfig
from edgeres.backends.openvino import backend, devices, run
from edgeres.backends.openvino.backend import BACKEND
from edgeres.errors import BackendMissingError, UsageError

pytest.importorskip("openvino", reason="openvino is not installed")

CAPABILITIES = {
    "CPU": ["FP32", "INT8"],
    "GPU.0": ["FP32", "FP16", "INT8"],
    "GPU.1": ["FP32", "FP16"],
    "NPU": ["FP16", "INT8"],
}


class Listing:
    """The list of devices of a machine that has these, and what each says of itself."""

    def __init__(self, *names: str) -> None:
        self.available_devices = list(names)
        self.compiled: list[tuple[str, dict]] = []

    def get_property(self, name: str, what: str):
        known = {
            "OPTIMIZATION_CAPABILITIES": CAPABILITIES[name],
            "FULL_DEVICE_NAME": f"Intel {name}",
        }
        if what not in known:
            raise RuntimeError(f"no property {what}")
        return known[what]

    def compile_model(self, model, name: str, settings: dict):
        """Notes what was asked for, and says that it runs on the CPU."""
        self.compiled.append((name, settings))
        return SimpleNamespace(get_property=lambda what: ["CPU"])


@pytest.fixture
def everything(monkeypatch) -> Listing:
    """A machine with two GPUs and an NPU."""
    core = Listing("CPU", "GPU.0", "GPU.1", "NPU")
    monkeypatch.setattr(backend, "core", lambda: core)
    monkeypatch.setattr(run, "core", lambda: core)
    return core


@pytest.mark.parametrize(
    ("device", "hint"),
    [("gpu", "intel-opencl-icd"), ("gpu:3", "intel-opencl-icd"), ("npu", "intel-level-zero-npu")],
)
def test_what_this_machine_does_not_list_is_refused_with_its_driver(
    network, tmp_path, device, hint
):
    if device.partition(":")[0] in " ".join(BACKEND.devices()):
        pytest.skip(f"this machine has {device}")
    with pytest.raises(BackendMissingError, match=f"does not list {device} here; it lists") as it:
        BACKEND.build(network, tmp_path / "net.xml", BuildConfig(device))
    assert hint in it.value.hint
    assert not list(tmp_path.glob("*.xml"))
    with pytest.raises(BackendMissingError, match="does not list"):
        BACKEND.qdq_rules(device)
    assert BACKEND.place(device) == {}


@pytest.mark.parametrize("device", ["gpu:", "gpu:x", "GPU", "tpu", "npu:0", "auto:gpu"])
def test_what_openvino_never_has_is_refused(device):
    with pytest.raises(BackendMissingError, match="has no device"):
        BACKEND.check(BuildConfig(device))


def test_auto_is_a_device_by_name_from_then_on(network, tmp_path):
    if BACKEND.devices() != ("cpu",):
        pytest.skip("this machine has more than a CPU")
    engine = BACKEND.build(network, tmp_path / "net.xml", BuildConfig("auto", 1))
    assert engine.device == "cpu"
    assert BACKEND.qdq_rules("auto") == BACKEND.qdq_rules("cpu")


def test_all_names_of_a_machine_that_has_all(everything):
    assert BACKEND.devices() == ("cpu", "gpu:0", "gpu:1", "npu")
    names = {name: devices.find_device(everything, name).name for name in ("gpu", "gpu:1", "npu")}
    assert names == {"gpu": "GPU.0", "gpu:1": "GPU.1", "npu": "NPU"}
    assert devices.find_device(everything, "auto").name == "GPU.0"
    assert devices.find_device(Listing("CPU", "NPU"), "auto").name == "NPU"
    assert devices.find_device(Listing("CPU", "GPU.1"), "auto").name == "GPU.1"
    with pytest.raises(BackendMissingError, match="lists cpu, gpu:1"):
        devices.find_device(Listing("CPU", "GPU.1"), "gpu")


def test_a_gpu_whose_driver_fails_does_not_take_the_cpu_along(everything, monkeypatch):
    asked = everything.get_property

    def broken(name: str, what: str):
        if name == "GPU.1":
            raise RuntimeError("clGetDeviceInfo, error code: -5")
        return asked(name, what)

    monkeypatch.setattr(everything, "get_property", broken)
    assert BACKEND.devices() == ("cpu", "gpu:0", "npu")
    with pytest.raises(BackendMissingError, match=r"cannot ask it: clGetDeviceInfo") as caught:
        devices.find_device(everything, "gpu:1")
    assert "driver" in caught.value.hint


def test_one_gpu_has_no_number(everything, monkeypatch):
    monkeypatch.setitem(CAPABILITIES, "GPU", ["FP32"])
    assert devices.find_device(Listing("CPU", "GPU"), "gpu:0").name == "GPU"


def test_a_device_without_int8_has_no_rules(everything):
    with pytest.raises(
        BackendMissingError, match=r"gpu:1 \(Intel GPU.1\) does not compute in INT8"
    ):
        BACKEND.qdq_rules("gpu:1")


@pytest.mark.parametrize(
    ("device", "name"), [("gpu:0", "GPU.0"), ("npu", "NPU"), ("auto", "GPU.0")]
)
def test_an_engine_that_ends_on_the_cpu_is_found_out(everything, network, tmp_path, device, name):
    with pytest.raises(BackendMissingError, match="but runs on CPU"):
        BACKEND.build(network, tmp_path / "net.xml", BuildConfig(device))
    (asked,) = everything.compiled
    assert asked[0] == name
    # Properties that only the CPU has would be refused by the device.
    assert not {"SNIPPETS_MODE", "INFERENCE_NUM_THREADS"} & asked[1].keys()
    assert asked[1]["INFERENCE_PRECISION_HINT"] == ("f16" if name == "NPU" else "f32")


def test_options_of_another_device_are_refused(everything):
    with pytest.raises(UsageError, match="pinning is the CPU's, the device is gpu:0"):
        BACKEND.check(BuildConfig("gpu", options={"pinning": "true"}))
    with pytest.raises(UsageError, match="fixed shapes"):
        BACKEND.check(BuildConfig("npu", options={"batch": "dynamic"}))
    BACKEND.check(BuildConfig("npu"))


def test_what_was_not_run_on_hardware_is_labelled(network, tmp_path):
    engine = BACKEND.build(network, tmp_path / "net.xml", BuildConfig("cpu", 1))
    assert BACKEND.remarks(engine).notes == ()
    for device in ("gpu:0", "npu"):
        (note,) = BACKEND.remarks(replace(engine, device=device)).notes
        assert note.startswith(f"{device}: edgeres itself was never run on such a device")


def test_a_gpu_is_known_by_its_name(everything):
    assert BACKEND.place("gpu") == {"device": "Intel GPU.0"}
    assert BACKEND.place("cpu") == {}


def test_bfloat16_is_for_cpus_that_have_instructions_for_it(everything, monkeypatch):
    for device in ("cpu", "gpu:0", "npu", "gpu:7"):
        assert BACKEND.float_builds(device) == {}
    bf16 = {"rest": "bfloat16"}
    with pytest.raises(UsageError, match="rest=bfloat16 needs a CPU with instructions for it"):
        BACKEND.check(BuildConfig("cpu", options=bf16))
    with pytest.raises(UsageError, match="openvino option rest is the CPU's"):
        BACKEND.check(BuildConfig("gpu:0", options={"rest": "float32"}))
    monkeypatch.setitem(CAPABILITIES, "CPU", ["BF16", "FP32", "INT8"])
    monkeypatch.setitem(CAPABILITIES, "GPU.0", ["BF16", "FP16", "INT8"])
    assert BACKEND.float_builds("cpu") == {"bf16": bf16}
    assert BACKEND.float_builds("gpu:0") == {}
    BACKEND.check(BuildConfig("cpu", options=bf16))
