"""Plans that can be refitted or lie apart from their weights, and sparse kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.sidecar import read_engine
from edgeres.backends.tensorrt.flags import is_sparse
from edgeres.errors import ArtefactError, StageError, UsageError

BACKEND = get_backend("tensorrt")
Install = Callable[[str], Any]
Built = Callable[..., Engine]


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
def test_no_flag_is_set_that_was_not_asked_for(
    install: Install, built: Built, version: str
) -> None:
    trt = install(version)
    built()
    assert not {"REFIT", "STRIP_PLAN", "SPARSE_WEIGHTS"} & set(trt.flags)
    trt.flags.clear()
    built(refit="true", sparse_weights="true")
    assert {"REFIT", "SPARSE_WEIGHTS"} <= set(trt.flags)


@pytest.mark.parametrize(
    ("version", "option", "message"),
    [
        ("8.6", "strip_plan", r"TensorRT 8\.6\.1 does not do strip_plan at all"),
        ("rtx", "strip_plan", "does not do strip_plan without a GPU"),
        ("rtx", "refit", "does not do refit without a GPU"),
    ],
)
def test_what_a_version_does_not_have_is_one_line(
    install: Install, built: Built, version: str, option: str, message: str
) -> None:
    install(version)
    with pytest.raises(UsageError, match=message):
        built(**{option: "true"})


@pytest.mark.parametrize("version", ["10", "11"])
def test_a_stripped_plan_gets_the_weights_of_the_file_that_was_parsed(
    install: Install, built: Built, version: str
) -> None:
    trt = install(version)
    engine = built(strip_plan="true")
    weights = engine.path.with_name(engine.path.name + ".weights.onnx")
    assert weights.is_file()
    assert read_engine(engine.path).versions["strip_plan"] == "true"
    assert trt.refitted == ""
    image = np.ones((2, 1, 4, 4), np.float32)
    with BACKEND.load(engine, BuildConfig("cuda:0")) as runner:
        assert trt.refitted == str(weights)
        assert runner.infer({"input": image})["logits"][0, 0] == 16
    assert BACKEND.layers(engine)[0].precision == "int8"
    plain = built()
    trt.refitted = ""
    BACKEND.load(plain, BuildConfig("cuda:0")).close()
    assert trt.refitted == ""


def test_other_weights_are_refused(install: Install, built: Built) -> None:
    trt = install("10")
    engine = built(strip_plan="true")
    trt.weights_fit = False
    with pytest.raises(StageError, match=r"weights\.onnx: .* does not take these weights"):
        BACKEND.load(engine, BuildConfig("cuda:0"))
    Path(f"{engine.path}.weights.onnx").write_bytes(b"others")
    with pytest.raises(ArtefactError, match=r"expected .* bytes, got 6"):
        BACKEND.load(engine, BuildConfig("cuda:0"))


def test_the_pattern_of_sparse_weights() -> None:
    half = np.tile(np.array([1, 0, 2, 0], np.int8), 2)
    assert is_sparse(np.broadcast_to(half[None, :, None, None], (3, 8, 3, 3)), "Conv")
    assert not is_sparse(np.broadcast_to(half[:, None, None, None], (8, 4, 3, 3)), "Conv")
    assert is_sparse(np.broadcast_to(half[:, None], (8, 5)), "Gemm")
    assert not is_sparse(np.zeros((4, 3, 3, 3)), "Conv")  # three channels make no group of four
    thick = np.ones((2, 8, 1, 1))
    thick[:, :1] = 0
    assert not is_sparse(thick, "Conv")


def test_sparse_weights_say_how_many_layers_they_can_serve(install: Install, built: Built) -> None:
    install("10")
    notes = BACKEND.remarks(built(sparse_weights="true")).notes
    assert any("0 of 1 layers have weights of the 2:4 pattern" in note for note in notes)
    assert not any("2:4" in note for note in BACKEND.remarks(built()).notes)
