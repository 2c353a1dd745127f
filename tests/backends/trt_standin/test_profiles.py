"""Several optimization profiles, TF32, plans for later versions, modules of one name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.backends.base import BatchLimits, BuildConfig, Engine, ShapeRange
from edgeres.backends.sidecar import read_engine
from edgeres.errors import ArtefactError, BackendMissingError, DataError, UsageError

from .conftest import BACKEND, CUDA
from .test_run import expected, images

Install = Callable[[str], Any]


@pytest.mark.parametrize("version", ["8.6", "10", "11", "rtx"])
def test_each_batch_size_has_a_profile(
    install: Install, built: Callable[..., Engine], version: str
) -> None:
    trt = install(version)
    engine = built(opt_batch="1,3", max_batch="4", contexts="2")
    assert [profile["input"] for profile in trt.profiles] == [
        ((1, 1, 4, 4), (1, 1, 4, 4), (1, 1, 4, 4)),
        ((2, 1, 4, 4), (3, 1, 4, 4), (4, 1, 4, 4)),
    ]
    assert read_engine(engine.path).versions["opt_batch"] == "1,3"
    assert engine.shapes["input"].max == (4, 1, 4, 4)
    trt.loaded_profiles = [(1, 1), (2, 4)]
    with BACKEND.load(engine, CUDA) as runner:
        assert runner.batch_limits == BatchLimits(1, 4)
        for batch in (1, 4, 1, 2, 3):
            feed = images(batch)
            logits = runner.infer({"input": feed})["logits"]
            np.testing.assert_allclose(logits, expected(feed), rtol=1e-6)
        with pytest.raises(DataError, match=r"to \(1, 1, 4, 4\), or input .* got \(5, 1, 4, 4\)"):
            runner.infer({"input": images(5)})
    assert trt.contexts == 4, "one for each profile and lane"


def test_profiles_divide_a_range_that_was_given(install: Install, qdq_file: Path) -> None:
    trt = install("10")
    sizes = ShapeRange((2, 1, 4, 4), (4, 1, 4, 4), (32, 1, 4, 4))
    config = BuildConfig("cuda:0", shapes={"input": sizes}, options={"opt_batch": "2,8,16"})
    engine = BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)
    ends = [tuple(shape[0] for shape in profile["input"]) for profile in trt.profiles]
    assert ends == [(2, 2, 2), (3, 8, 8), (9, 16, 32)]
    assert engine.shapes == {"input": ShapeRange((2, 1, 4, 4), (2, 1, 4, 4), (32, 1, 4, 4))}
    config = BuildConfig("cuda:0", shapes={"input": sizes}, options={"opt_batch": "1,8"})
    with pytest.raises(UsageError, match=r"opt_batch 1 lies outside .* 2 to 32"):
        BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)


@pytest.mark.parametrize("text", ["8,1", "1,1", "0", "1,", "1;8", "-1"])
def test_batch_sizes_are_in_order(
    install: Install, built: Callable[..., Engine], text: str
) -> None:
    install("10")
    with pytest.raises(UsageError, match="opt_batch: expected a batch size, or several in rising"):
        built(opt_batch=text)


@pytest.mark.parametrize("version", ["8.6", "10", "11", "rtx"])
@pytest.mark.parametrize(("rest", "on"), [("float32", False), ("tf32", True), ("float16", False)])
def test_float32_is_not_tf32(
    install: Install, built: Callable[..., Engine], version: str, rest: str, on: bool
) -> None:
    trt = install(version)
    engine = built(rest=rest)
    assert ("TF32" in trt.flags) == on
    assert ("TF32" in trt.cleared) == (not on)
    assert engine.versions["rest"] == rest
    form = "opset17.onnx" if version == "8.6" else "net.onnx"
    assert trt.parsed == ("float16.onnx" if rest == "float16" and version != "8.6" else form)


def test_a_version_compatible_plan_runs_with_later_versions(
    install: Install, built: Callable[..., Engine]
) -> None:
    install("10")
    engine = built(version_compatible="true")
    for later in ("10.13.3.9.post2", "10.14.0", "10.20"):
        trt = install("10")
        trt.flags.append("VERSION_COMPATIBLE")
        trt.module.__dict__["__version__"] = later
        BACKEND.load(engine, CUDA).close()
        assert trt.runtime["engine_host_code_allowed"] is True
        assert BACKEND.layers(engine)
    for other in ("10.13.2", "11.0.0", "9.9"):
        trt = install("10")
        trt.module.__dict__["__version__"] = other
        with pytest.raises(ArtefactError, match="runs with later ones of that major version"):
            BACKEND.load(engine, CUDA)
        assert trt.deserialized == 0


def test_no_other_plan_may_run_code_of_its_own(
    install: Install, built: Callable[..., Engine]
) -> None:
    trt = install("10")
    engine = built()
    asked = BuildConfig("cuda:0", options={"version_compatible": "true"})
    BACKEND.load(engine, asked).close()
    assert "engine_host_code_allowed" not in trt.runtime
    trt.module.__dict__["__version__"] = "10.14"
    with pytest.raises(ArtefactError, match=r"here is 10\.14"):
        BACKEND.load(engine, asked)


RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"


@pytest.fixture
def jetson(driver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``jetson("p3767-0000")`` makes the machine one with that module."""
    driver.gpu, driver.capability, driver.integrated = "Orin", (8, 7), True

    def make(module: str) -> None:
        (tmp_path / "compatible").write_bytes(f"nvidia,p3768-0000+{module}\0nvidia,x\0".encode())
        (tmp_path / "release").write_text(RELEASE)
        monkeypatch.setattr("edgeres.backends.tensorrt.gpus.MODULE", tmp_path / "compatible")
        monkeypatch.setattr("edgeres.system.board.L4T_RELEASE", tmp_path / "release")

    return make


def test_the_sidecar_knows_the_jetson(
    install: Install, built: Callable[..., Engine], jetson: Callable[..., None]
) -> None:
    install("10")
    jetson("p3767-0000")
    versions = read_engine(built().path).versions
    assert versions["multiprocessors"] == "14"
    assert versions["memory_mib"] == "8192"
    assert versions["l4t"] == "36.4.3"
    assert versions["module"] == "nvidia,p3768-0000+p3767-0000"
    assert BACKEND.place("cuda:0").items() >= {"l4t": "36.4.3", "memory_mib": "8192"}.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"multiprocessors": 8}, "8 multiprocessors instead of 14"),
        ({"memory_bytes": 16 << 30}, "16384 MiB of memory instead of 8192"),
        ({"module": "p3767-0003"}, ".*p3767-0003 instead of .*p3767-0000"),
        ({"memory_bytes": (8 << 30) - (300 << 20)}, None),
    ],
)
def test_modules_of_one_name_are_told_apart(
    install: Install,
    driver: Any,
    built: Callable[..., Engine],
    jetson: Callable[..., None],
    changes: dict[str, Any],
    message: str | None,
) -> None:
    trt = install("10")
    jetson("p3767-0000")
    engine = built()
    for name, value in changes.items():
        jetson(value) if name == "module" else setattr(driver, name, value)
    if message is None:
        BACKEND.load(engine, CUDA).close()
        return
    with pytest.raises(BackendMissingError, match=rf"built for Orin, this GPU is Orin \({message}"):
        BACKEND.load(engine, CUDA)
    assert trt.deserialized == 0
