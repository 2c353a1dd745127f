"""Stand-ins for what this machine lacks: TensorRT 8.6, 10 and 11, a CUDA driver and a GPU.

They prove names, call order, memory and messages; they say nothing about what a GPU computes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.tensorrt import subprocess as _tensorrt_alone

from .cuda_driver import Driver
from .tensorrt_module import StandIn

BACKEND = get_backend("tensorrt")
CUDA = BuildConfig("cuda:0")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver with one GPU in place of libcuda."""
    stand_in = Driver()
    real = ctypes.CDLL

    def load(name: str, *arguments: Any, **options: Any) -> Any:
        wanted = name in {"libcuda.so.1", "nvcuda.dll"}
        return stand_in.library if wanted else real(name, *arguments, **options)

    monkeypatch.setattr(ctypes, "CDLL", load)
    return stand_in


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Iterator[Callable[[str], StandIn]]:
    """``install("10")`` puts the stand-in of a version where ``import`` finds it, alone."""

    made: list[StandIn] = []

    def put(version: str) -> StandIn:
        stand_in = StandIn(version, driver)
        made.append(stand_in)
        for name in ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        name = "tensorrt_rtx" if version == "rtx" else "tensorrt"
        monkeypatch.setitem(sys.modules, name, stand_in.module)
        return stand_in

    # The stand-ins are in this process only, so the build must be too.
    monkeypatch.setattr(_tensorrt_alone, "run_steady", run_here)
    monkeypatch.setattr(_tensorrt_alone, "addresses_are_fixed", lambda: True)
    yield put
    assert not driver.alive(), "something was not freed"
    assert driver.stack == [], "a CUDA context was left current"
    assert [stand_in.complaints for stand_in in made if stand_in.complaints] == []


def run_here(
    function: Callable[..., Any],
    *,
    folder: Path,
    what: str,
    progress: Callable[[int, int], None] | None,
) -> Callable[..., Any]:
    """As :func:`edgeres.system.steady_child.run_steady`, without a child."""

    def call(*args: Any, **kwargs: Any) -> Any:
        sent, named = pickle.loads(pickle.dumps((args, kwargs)))
        with contextlib.chdir(folder):
            return json.loads(json.dumps(function(progress, *sent, **named)))

    return call


@pytest.fixture
def qdq_file(tmp_path: Path) -> Path:
    """One quantized convolution."""
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(0),
        "w": np.ones((2, 1, 3, 3), np.int8),
        "w_scale": np.full(2, 0.1, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["w_dq"], name="w_dq", axis=0),
        helper.make_node("Conv", ["dq", "w_dq"], ["y"], name="conv", pads=[1] * 4),
        helper.make_node("GlobalMaxPool", ["y"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["logits"], name="flatten"),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", floats, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", floats, ["N", 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    """One Relu."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"], name="relu")],
        "net",
        [helper.make_tensor_value_info("input", floats, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", floats, ["N", 1, 4, 4])],
    )
    path = tmp_path / "float.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture
def built(qdq_file: Path) -> Callable[..., Engine]:
    """``built(**options)``: the engine of ``qdq_file`` for the GPU."""

    def build(**options: str) -> Engine:
        config = BuildConfig("cuda:0", options=options)
        return BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)

    return build
