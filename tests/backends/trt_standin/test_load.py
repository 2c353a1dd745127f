"""Checks before a plan is deserialized, and errors while it is, on stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgeres.backends.base import Engine
from edgeres.backends.sidecar import read_engine
from edgeres.errors import ArtefactError, BackendMissingError, EdgeResError, StageError

from .conftest import BACKEND, CUDA

Install = Callable[[str], Any]


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("cuMemAlloc_v2", 2, r"out of memory \(cuMemAlloc_v2\).*smaller batch"),
        ("cuStreamCreate", 999, "cuStreamCreate failed: error 999, a reason"),
        ("cuDevicePrimaryCtxRetain", 101, "cuDevicePrimaryCtxRetain failed: error 101"),
    ],
)
def test_cuda_errors_while_loading_are_one_line_and_free_everything(
    install: Install,
    driver: Any,
    built: Callable[..., Engine],
    function: str,
    code: int,
    message: str,
) -> None:
    install("10")
    engine = built()
    driver.fails[function] = code
    with pytest.raises(StageError, match=message):
        BACKEND.load(engine, CUDA)


def test_no_driver_is_one_line(
    install: Install, built: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install("rtx")
    engine = built()
    monkeypatch.setattr("edgeres.backends.tensorrt.driver.LIBRARY", "libnothing.so.1")
    with pytest.raises(BackendMissingError, match="no NVIDIA driver here: libnothing") as caught:
        BACKEND.load(engine, CUDA)
    assert caught.value.hint
    assert trt.deserialized == 0
    # The layers are known all the same, from the build.
    assert [layer.precision for layer in BACKEND.layers(engine)] == ["int8"]


def test_a_driver_that_does_not_start_is_one_line(install: Install, driver: Any) -> None:
    install("rtx")
    driver.fails["cuInit"] = 100
    assert "does not start: error 100, a reason" in str(BACKEND.not_executable())


def flip_a_bit(engine: Engine) -> None:
    data = bytearray(engine.path.read_bytes())
    data[0] ^= 1
    engine.path.write_bytes(data)


def cut_short(engine: Engine) -> None:
    engine.path.write_bytes(engine.path.read_bytes()[:-1])


def lose_the_sidecar(engine: Engine) -> None:
    engine.path.with_name("net.plan.engine.json").unlink()


def lose_the_layers(engine: Engine) -> None:
    engine.path.with_name("net.plan.layers.json").unlink()


def _edit(engine: Engine, **changes: Any) -> None:
    sidecar = engine.path.with_name("net.plan.engine.json")
    record = json.loads(sidecar.read_text())
    for key, value in changes.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    sidecar.write_text(json.dumps(record))


def another_version(engine: Engine) -> None:
    _edit(engine, versions={"tensorrt": "10.3.0"})


def another_gpu(engine: Engine) -> None:
    _edit(engine, versions={"gpu": "NVIDIA Orin", "compute_capabilities": "8.7"})


def same_generation_other_gpu(engine: Engine) -> None:
    _edit(engine, versions={"gpu": "NVIDIA RTX A2000"})


def no_flavor(engine: Engine) -> None:
    _edit(engine, versions={"flavor": "tensorflow"})


def another_backend(engine: Engine) -> None:
    _edit(engine, backend="openvino")


def another_flavor(engine: Engine) -> None:
    _edit(engine, versions={"flavor": "tensorrt_rtx", "tensorrt_rtx": "1.7.1.116"})


@pytest.mark.parametrize(
    ("tamper", "error", "message"),
    [
        (flip_a_bit, ArtefactError, r"net\.plan"),
        (cut_short, ArtefactError, r"net\.plan"),
        (lose_the_sidecar, ArtefactError, r"net\.plan"),
        (lose_the_layers, ArtefactError, r"net\.plan\.layers\.json"),
        (another_version, ArtefactError, r"built by TensorRT 10\.3\.0, here is 10\.13\.3\.9"),
        (another_gpu, BackendMissingError, r"built for NVIDIA Orin, this GPU is NVIDIA Stand-In"),
        (same_generation_other_gpu, BackendMissingError, "built for NVIDIA RTX A2000"),
        (no_flavor, ArtefactError, "names no TensorRT flavor"),
        (another_backend, ArtefactError, "openvino"),
        (another_flavor, BackendMissingError, "TensorRT for RTX is not installed"),
    ],
)
def test_a_plan_that_is_not_ours_is_never_deserialized(
    install: Install,
    built: Callable[..., Engine],
    tamper: Callable[[Engine], None],
    error: type[EdgeResError],
    message: str,
) -> None:
    trt = install("10")
    engine = built()
    tamper(engine)
    with pytest.raises(error, match=message) as caught:
        BACKEND.load(engine, CUDA)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert trt.deserialized == 0


def test_the_sidecar_counts_not_the_object(install: Install, built: Callable[..., Engine]) -> None:
    trt = install("10")
    engine = built()
    another_version(engine)
    lie = replace(engine, versions={**engine.versions, "tensorrt": trt.version})
    with pytest.raises(ArtefactError, match="built by"):
        BACKEND.load(lie, CUDA)
    assert trt.deserialized == 0


def test_hardware_compatible_plans_run_on_newer_gpus(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    install("10")
    engine = built(hardware_compatibility="ampere_plus")
    driver.gpu, driver.capability = "NVIDIA H100", (9, 0)
    BACKEND.load(engine, CUDA).close()
    driver.gpu, driver.capability = "NVIDIA T4", (7, 5)
    with pytest.raises(BackendMissingError, match=r"this GPU is NVIDIA T4 \(7\.5\)"):
        BACKEND.load(engine, CUDA)


def test_plans_of_tensorrt_for_rtx_run_on_every_target(
    install: Install, driver: Any, built: Callable[..., Engine]
) -> None:
    trt = install("rtx")
    engine = built()
    driver.gpu, driver.capability = "NVIDIA GeForce RTX 5090", (12, 0)
    BACKEND.load(engine, CUDA).close()
    driver.gpu, driver.capability = "NVIDIA H100", (9, 0)
    before = trt.deserialized
    with pytest.raises(BackendMissingError, match=r"compute capability 8\.0.*NVIDIA H100 \(9\.0"):
        BACKEND.load(engine, CUDA)
    assert trt.deserialized == before


def test_what_tensorrt_says_about_a_plan_is_one_line(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    trt.loads_plan = False
    with pytest.raises(StageError, match="cannot load the plan: wrong GPU"):
        BACKEND.load(engine, CUDA)
    trt = install("rtx")
    engine = built()
    trt.valid = False
    with pytest.raises(StageError, match="says the plan cannot run on this GPU"):
        BACKEND.load(engine, CUDA)
    assert trt.deserialized == 0


def test_on_a_gpu_the_layers_come_from_the_inspector(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    assert trt.deserialized == 0
    (layer,) = BACKEND.layers(read_engine(engine.path))
    assert trt.deserialized == 1
    assert (layer.name, layer.precision, layer.nodes) == ("conv + relu", "int8", ("conv",))
