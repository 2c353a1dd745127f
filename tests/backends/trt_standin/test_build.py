"""The build goes through with the names of every version, and asks each for the right thing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.target import open_target
from edgeres.errors import BackendMissingError, EdgeResError, ModelError, UsageError
from edgeres.pipeline.keys import place_key
from edgeres.system.store import content_key

BACKEND = get_backend("tensorrt")
Install = Callable[[str], Any]


def build(onnx: Path, device: str = "cuda:0", **options: str) -> Engine:
    return BACKEND.build(onnx, onnx.with_suffix(".plan"), BuildConfig(device, options=options))


@pytest.mark.parametrize(
    ("version", "network_flags", "flags"),
    [("8.6", 1, ["INT8", "FP16"]), ("10", 2, []), ("11", 0, []), ("rtx", 0, [])],
)
def test_each_version_gets_its_own_network_and_flags(
    install: Install, qdq_file: Path, version: str, network_flags: int, flags: list[str]
) -> None:
    trt = install(version)
    engine = build(qdq_file)
    assert trt.network_flags == network_flags
    assert trt.flags == flags
    assert trt.cleared == ["TF32"]
    assert trt.config.set_values["profiling_verbosity"].name == "DETAILED"
    assert trt.profile == {"input": ((1, 1, 4, 4), (1, 1, 4, 4), (64, 1, 4, 4))}
    assert ("progress_monitor" in trt.config.set_values) == (version != "8.6")
    flavor = "tensorrt_rtx" if version == "rtx" else "tensorrt"
    assert engine.versions["flavor"] == flavor
    assert engine.versions[flavor] == trt.version == BACKEND.versions()[flavor]
    (layer,) = BACKEND.layers(engine)
    assert (layer.precision, layer.nodes) == ("int8", ("conv",))
    assert BACKEND.audit(engine).warnings == ("a warning",)


@pytest.mark.parametrize("version", ["10", "11"])
def test_a_plan_of_tensorrt_remembers_its_gpu(
    install: Install, qdq_file: Path, version: str
) -> None:
    install(version)
    engine = build(qdq_file, hardware_compatibility="same_compute_capability")
    assert engine.device == "cuda:0"
    assert (
        engine.versions.items()
        >= {
            "gpu": "NVIDIA Stand-In",
            "compute_capabilities": "8.6",
            "driver": "12.8",
            "uuid": "GPU-00010203-0405-0607-0809-0a0b0c0d0e00",
            "hardware_compatibility": "same_compute_capability",
        }.items()
    )


@pytest.mark.parametrize(
    ("version", "asked", "rest", "parsed"),
    [
        ("8.6", {}, "float16", "opset17.onnx"),
        ("10", {}, "float16", "float16.onnx"),
        ("11", {}, "float16", "float16.onnx"),
        ("rtx", {}, "float32", "net.onnx"),
        ("8.6", {"rest": "float32"}, "float32", "opset17.onnx"),
        ("10", {"rest": "float32"}, "float32", "net.onnx"),
        ("rtx", {"rest": "float16"}, "float16", "float16.onnx"),
    ],
)
def test_the_rest_is_float16_where_that_pays(
    install: Install, qdq_file: Path, version: str, asked: dict[str, str], rest: str, parsed: str
) -> None:
    trt = install(version)
    engine = build(qdq_file, **asked)
    assert engine.versions["rest"] == rest
    assert trt.parsed == parsed
    assert sorted(path.suffix for path in qdq_file.parent.iterdir()) == [
        ".json", ".json", ".onnx", ".plan",
    ]  # fmt: skip


def test_inputs_and_outputs_are_float16_on_demand(install: Install, qdq_file: Path) -> None:
    trt = install("10")
    build(qdq_file, io="float16")
    assert trt.parsed == "float16.onnx"
    with pytest.raises(UsageError, match=r"io=float16 needs rest=float16.*the rest is float32"):
        build(qdq_file, io="float16", rest="float32")
    install("8.6")
    with pytest.raises(UsageError, match=r"TensorRT 8\.6\.1 takes float32 alone"):
        build(qdq_file, io="float16")


def test_8_6_is_allowed_what_the_graph_needs_and_no_more(
    install: Install, qdq_file: Path, float_file: Path
) -> None:
    trt = install("8.6")
    for onnx, rest, flags in (
        (qdq_file, "float32", ["INT8"]),
        (float_file, "float32", []),
        (float_file, "float16", ["FP16"]),
    ):
        trt.flags.clear()
        build(onnx, rest=rest)
        assert trt.flags == flags
        assert trt.parsed == "opset17.onnx"


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
def test_options_of_tensorrt(
    install: Install, qdq_file: Path, tmp_path: Path, version: str
) -> None:
    trt = install(version)
    cache = tmp_path / "cache" / "timing.bin"
    options = {
        "timing_cache": str(cache),
        "hardware_compatibility": "ampere_plus",
        "version_compatible": "true",
        "workspace_mib": "256",
        "optimization_level": "5",
    }
    build(qdq_file, **options)
    assert cache.read_bytes() == b"timed"
    build(qdq_file, **options)
    assert trt.timings == [b"", b"timed"]
    assert "VERSION_COMPATIBLE" in trt.flags
    values = trt.config.set_values
    assert values["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert values["builder_optimization_level"] == 5


@pytest.mark.parametrize(
    ("version", "options", "error", "message"),
    [
        ("10", {"compute_capabilities": "8.6"}, UsageError, "takes no compute_capabilities"),
        ("8.6", {"hardware_compatibility": "same_compute_capability"}, UsageError, "has no hard"),
        ("11", {"dla_core": "0"}, BackendMissingError, "sees 0 DLA cores"),
        ("10", {"flavor": "tensorrt_rtx"}, BackendMissingError, "RTX is not installed"),
        ("rtx", {"flavor": "tensorrt"}, BackendMissingError, "TensorRT is not installed"),
    ],
)
def test_what_a_version_cannot_do_is_one_line(
    install: Install,
    qdq_file: Path,
    version: str,
    options: dict[str, str],
    error: type[EdgeResError],
    message: str,
) -> None:
    install(version)
    with pytest.raises(error, match=message) as caught:
        build(qdq_file, **options)
    assert caught.value.hint


def test_what_the_parser_says_is_one_line(install: Install, qdq_file: Path) -> None:
    install("10").parses = False
    with pytest.raises(ModelError, match="does not take the model: In node 3: no such thing") as it:
        build(qdq_file)
    assert "\n" not in str(it.value)


def test_without_a_layer_list_in_the_log_the_inspector_is_asked(
    install: Install, qdq_file: Path
) -> None:
    trt = install("10")
    trt.log_has_layers = False
    engine = build(qdq_file)
    assert trt.deserialized == 1
    assert [layer.name for layer in BACKEND.audit(engine).layers] == ["conv + relu"]


def test_on_a_gpu_tensorrt_is_preferred(install: Install, driver: Any, qdq_file: Path) -> None:
    install("10")
    assert BACKEND.missing() is None
    assert BACKEND.not_executable() is None
    assert BACKEND.devices() == ("cuda:0",)
    assert build(qdq_file, device="cpu").versions["flavor"] == "tensorrt"


def test_versions_name_all_that_a_plan_depends_on(install: Install, driver: Any) -> None:
    trt = install("10")
    assert BACKEND.versions() == {"tensorrt": trt.version}
    first = BACKEND.place("cuda:0")
    assert first == {
        "gpu": "NVIDIA Stand-In",
        "compute_capability": "8.6",
        "uuid": "GPU-00010203-0405-0607-0809-0a0b0c0d0e00",
        "driver": "12.8",
        "multiprocessors": "14",
        "memory_mib": "8192",
    }
    driver.count = 0
    assert BACKEND.place("cuda:0") == {}


def test_key_and_sidecar_are_of_the_gpu_that_was_asked_for(
    install: Install, driver: Any, qdq_file: Path
) -> None:
    install("10")
    driver.count = 3
    driver.others = {1: ("NVIDIA Stand-In Max", (9, 0))}
    here = {n: open_target("tensorrt", f"cuda:{n}") for n in range(3)}
    keys = {n: content_key("build", {}, place_key(target)) for n, target in here.items()}
    assert len(set(keys.values())) == 3, "cuda:2 is another card of the same model as cuda:0"
    assert place_key(here[1])["place"]["gpu"] == "NVIDIA Stand-In Max"
    versions = build(qdq_file, device="cuda:1").versions
    assert versions["gpu"] == "NVIDIA Stand-In Max"
    assert versions["compute_capabilities"] == "9.0"
    assert versions["uuid"].endswith("0e01")
    driver.others = {1: ("NVIDIA Stand-In Max", (9, 1))}
    assert content_key("build", {}, place_key(here[1])) != keys[1]
    assert content_key("build", {}, place_key(here[0])) == keys[0]


def test_tensorrt_without_a_gpu_cannot_build(
    install: Install, driver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("10")
    driver.count = 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "builds only on a machine with an NVIDIA GPU" in str(BACKEND.missing())
    assert "shows no GPU" in str(BACKEND.not_executable())
    assert BACKEND.devices() == ()


def test_nothing_installed_is_one_line_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, qdq_file: Path
) -> None:
    for name in ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "edgeres[tensorrt-rtx]" in str(BACKEND.missing())
    assert BACKEND.versions() == {}
    with pytest.raises(BackendMissingError, match="TensorRT is not installed here") as caught:
        build(qdq_file)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize("capability", [(9, 0), (8, 7), (10, 0)])
def test_tensorrt_for_rtx_says_at_once_that_it_does_not_run_on_this_gpu(
    install: Install, driver: Any, qdq_file: Path, capability: tuple[int, int]
) -> None:
    install("rtx")
    driver.capability = capability
    text = f"does not support compute capability {capability[0]}.{capability[1]}"
    assert text in str(BACKEND.not_executable())
    with pytest.raises(BackendMissingError, match=text):
        build(qdq_file)
    # Ahead of time, for other machines, it still builds.
    assert build(qdq_file, device="cpu").versions["compute_capabilities"] == "8.0,8.6,8.9,12.0"


def test_a_newer_gpu_is_added_to_the_targets(install: Install, driver: Any, qdq_file: Path) -> None:
    trt = install("rtx")
    driver.capability = (12, 1)
    assert build(qdq_file).versions["compute_capabilities"] == "12.1"
    assert trt.config.set_values["num_compute_capabilities"] == 1


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        ("cuda:1", BackendMissingError, "no cuda:1: the driver shows 1 GPU"),
        ("gpu", UsageError, "expected a device such as cuda:0, got 'gpu'"),
        ("cuda:x", UsageError, "expected a device such as cuda:0"),
    ],
)
def test_devices_that_are_not_there(
    install: Install, qdq_file: Path, device: str, error: type[EdgeResError], message: str
) -> None:
    install("10")
    with pytest.raises(error, match=message):
        build(qdq_file, device=device)
