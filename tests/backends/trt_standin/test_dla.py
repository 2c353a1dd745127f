"""The DLA of a Jetson: what is built for it, what is refused, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.base import BuildConfig, Engine, ShapeRange
from edgeres.errors import BackendMissingError, EdgeResError, ModelError, UsageError

from .conftest import BACKEND, CUDA
from .tensorrt_module import LAYER

Install = Callable[[str], Any]


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    """The convolution of ``qdq_file`` without Q/DQ."""
    import numpy as np

    nodes = [
        helper.make_node("Conv", ["input", "w"], ["y"], name="conv", pads=[1] * 4),
        helper.make_node("GlobalMaxPool", ["y"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["logits"], name="flatten"),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", floats, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", floats, ["N", 2])],
        [numpy_helper.from_array(np.ones((2, 1, 3, 3), np.float32), "w")],
    )
    path = tmp_path / "float.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


def build(file: Path, shapes: dict[str, ShapeRange] | None = None, **options: str) -> Engine:
    config = BuildConfig("cuda:0", shapes=shapes or {}, options={"dla_core": "1", **options})
    return BACKEND.build(file, file.with_suffix(".plan"), config)


@pytest.mark.parametrize(
    ("version", "network_flags", "flags"),
    [("8.6", 1, {"FP16", "GPU_FALLBACK"}), ("10", 0, {"FP16", "GPU_FALLBACK"})],
)
def test_before_11_a_float_network_runs_in_fp16(
    install: Install, float_file: Path, version: str, network_flags: int, flags: set[str]
) -> None:
    trt = install(version)
    trt.dla_cores = 2
    engine = build(float_file, opt_batch="4")
    assert trt.network_flags == network_flags, "weakly typed"
    assert set(trt.flags) == flags
    values = trt.config.set_values
    assert (values["DLA_core"], values["default_device_type"].name) == (1, "DLA")
    assert trt.parsed == ("opset17.onnx" if version == "8.6" else "float16.onnx")
    assert trt.profile == {"input": ((4, 1, 4, 4),) * 3}
    assert engine.versions["dla_core"] == "1"
    (note,) = BACKEND.audit(engine).notes
    assert note == "DLA core 1 can run 2 of 3 nodes; on the GPU: flatten."


@pytest.mark.parametrize("version", ["8.6", "10"])
def test_before_11_a_dla_takes_no_qdq(install: Install, qdq_file: Path, version: str) -> None:
    trt = install(version)
    trt.dla_cores = 2
    with pytest.raises(ModelError, match="takes no Q/DQ on a DLA") as caught:
        build(qdq_file)
    for way in ("--serve trtexec", "build_implicit.sh", "float model", "dla_core"):
        assert way in caught.value.hint


def test_from_11_on_the_graph_decides(install: Install, qdq_file: Path) -> None:
    trt = install("11")
    trt.dla_cores = 2
    build(qdq_file)
    assert trt.network_flags == 0
    assert trt.flags == ["GPU_FALLBACK"]
    assert trt.parsed == "float16.onnx"


@pytest.mark.parametrize("version", ["8.6", "10", "11"])
def test_a_plan_runs_on_its_core(install: Install, float_file: Path, version: str) -> None:
    trt = install(version)
    trt.dla_cores = 2
    engine = build(float_file)
    BACKEND.load(engine, CUDA).close()
    assert trt.runtime["DLA_core"] == 1
    BACKEND.load(engine, BuildConfig("cuda:0", options={"dla_core": "0"})).close()
    assert trt.runtime["DLA_core"] == 0
    trt.runtime.clear()
    BACKEND.layers(engine)
    assert trt.runtime["DLA_core"] == 1
    trt.dla_cores = 0
    with pytest.raises(BackendMissingError, match=r"for DLA core 1; .* sees 0 DLA cores"):
        BACKEND.load(engine, CUDA)


def test_what_a_dla_computes_in_is_not_guessed(install: Install, float_file: Path) -> None:
    trt = install("10")
    trt.dla_cores = 2
    trt.log_has_layers = False
    int8 = [{"Name": "x", "Dimensions": [1, 1, 4, 4], "Format/Datatype": "Int8"}]
    name = "{ForeignNode[conv...pool]}"
    trt.layer = LAYER | {"LayerType": "DLA", "Name": name, "Inputs": int8, "Outputs": int8}
    (layer,) = BACKEND.layers(build(float_file))
    assert (layer.op, layer.precision) == ("DLA", "unknown")


@pytest.mark.parametrize(
    ("options", "shapes", "error", "message"),
    [
        ({"rest": "float32"}, None, UsageError, "rest=float32 does not go with dla_core"),
        ({"rest": "tf32"}, None, UsageError, "rest=tf32 does not go with dla_core"),
        ({"opt_batch": "1,8"}, None, UsageError, "a DLA runs one batch size"),
        ({"max_batch": "8"}, None, UsageError, "got opt_batch 1 and max_batch 8"),
        ({}, (1, 1, 4), UsageError, r"range from \(1, 1, 4, 4\) to \(4, 1, 4, 4\); a DLA"),
        ({"dla_core": "2"}, None, BackendMissingError, "sees 2 DLA cores"),
    ],
)
def test_what_a_dla_cannot_do_is_one_line(
    install: Install,
    float_file: Path,
    options: dict[str, str],
    shapes: tuple[int, int, int] | None,
    error: type[EdgeResError],
    message: str,
) -> None:
    install("10").dla_cores = 2
    ranges = None
    if shapes is not None:
        ranges = {"input": ShapeRange(*((batch, 1, 4, 4) for batch in shapes))}
    with pytest.raises(error, match=message) as caught:
        build(float_file, ranges, **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_network_that_no_dla_can_run_is_refused(install: Install, float_file: Path) -> None:
    trt = install("10")
    trt.dla_cores = 2
    trt.dla_takes = dict.fromkeys(trt.dla_takes, False)
    with pytest.raises(ModelError, match="DLA core 1 can run none of the 3 nodes"):
        build(float_file)
