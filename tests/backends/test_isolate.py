"""Engines from elsewhere: built and tried in a child, whose end the parent reports."""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model
from typer.testing import CliRunner

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.isolate import build_isolated, try_engine
from edgeres.backends.sidecar import read_engine
from edgeres.cli import app
from edgeres.errors import ArtefactError, ModelError, StageError
from edgeres.quantization.isolate import input_shape, try_model
from edgeres.system.child import run_limited

pytestmark = pytest.mark.skipif(
    get_backend("onnxruntime").missing() is not None, reason="needs onnxruntime"
)


def _save(path: Path, nodes, constants, *, outputs=("scores",)) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def endless(path: Path) -> Path:
    """A loop of 2^60 turns: loads at once and never answers."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    node = helper.make_node("Loop", ["turns", "true", "image"], ["scores"], body=body)
    return _save(path, [node], {"turns": np.array(2**60, np.int64), "true": np.array(True)})


def greedy(path: Path) -> Path:
    """A few bytes that ask for 1 TiB."""
    nodes = [
        helper.make_node("Expand", ["one", "sizes"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["image", "sum"], ["scores"]),
    ]
    sizes = {"one": np.ones(1, np.float32), "sizes": np.array([2**38], np.int64)}
    return _save(path, nodes, sizes)


def plain(path: Path) -> Path:
    return _save(path, [helper.make_node("Relu", ["image"], ["scores"])], {})


def build(onnx: Path) -> Path:
    out = onnx.with_name("engine.onnx")
    config = BuildConfig(options={"graph_optimization": "disabled"})
    return get_backend("onnxruntime").build(onnx, out, config).path


def test_a_good_engine_is_built_and_tried(tmp_path):
    engine = build_isolated(
        plain(tmp_path / "net"), tmp_path / "engine.onnx", "onnxruntime", BuildConfig(threads=1)
    )
    assert engine == read_engine(tmp_path / "engine.onnx")
    try_engine(engine.path)


def test_errors_keep_their_class(tmp_path):
    (tmp_path / "net").write_bytes(b"no model")
    with pytest.raises(ModelError, match="rejects the model"):
        build_isolated(tmp_path / "net", tmp_path / "e.onnx", "onnxruntime", BuildConfig())
    assert [file.name for file in tmp_path.iterdir()] == ["net"]
    with pytest.raises(ArtefactError, match="no such engine"):
        try_engine(tmp_path / "none")


def test_an_engine_that_hangs_is_stopped(tmp_path):
    engine = build(endless(tmp_path / "net"))
    started = time.monotonic()
    with pytest.raises(StageError, match="did not end within its limit of 3 s"):
        try_engine(engine, seconds=3)
    assert time.monotonic() - started < 100


def test_an_engine_that_takes_all_memory_is_stopped(tmp_path):
    engine = build(greedy(tmp_path / "net"))
    with pytest.raises(StageError):
        try_engine(engine, seconds=60)


@pytest.mark.parametrize(
    ("command", "options"),
    [("validate", ()), ("benchmark", ()), ("benchmark", ("--tune-runtime",)), ("inspect", ())],
)
def test_commands_try_before_they_load(tmp_path, monkeypatch, command, options):
    monkeypatch.setattr("edgeres.backends.isolate.TRIAL_SECONDS", 1.0)
    engine = build(endless(tmp_path / "net"))
    more = ["--mean", "0", "--std", "1", "--baseline", str(engine)] if command == "validate" else []
    result = CliRunner().invoke(app, [command, str(engine), *options, *more])
    assert result.exit_code == 5, result.output
    assert "did not end within its limit" in result.stderr


@pytest.fixture
def impatient(monkeypatch) -> None:
    """``net.onnx`` has a second to answer; what else is tried has all its time."""

    def limited(function, *, seconds, memory_bytes):
        def call(path, *more):
            limit = 1.0 if Path(path).name == "net.onnx" else seconds
            return run_limited(function, seconds=limit, memory_bytes=memory_bytes)(path, *more)

        return call

    for module in ("backends", "quantization"):
        monkeypatch.setattr(f"edgeres.{module}.isolate.run_limited", limited)


GREY = ("--mean", "0", "--std", "1")


@pytest.mark.parametrize("command", ["compare", "sensitivity", "quantize", "baseline", "speed-up"])
def test_commands_try_onnx_files_before_they_read_them(tmp_path, impatient, command):
    net = str(endless(tmp_path / "net.onnx"))
    int8 = ["--data", "fashion-mnist", "--target", "onnxruntime"]
    if command in ("baseline", "speed-up"):
        good = str(build(plain(tmp_path / "good")))
        other = "--baseline" if command == "baseline" else "--fp32"
        arguments = ["validate", good, "--min-speedup", "1", other, net]
        arguments += ["--baseline", good] if command == "speed-up" else []
    elif command == "compare":
        arguments = [command, net, net]
    else:
        arguments = [command, net, *int8]
    if command == "quantize":
        arguments += ["--output", str(tmp_path / "int8.onnx")]
    result = CliRunner().invoke(app, [*arguments, *GREY])
    assert result.exit_code == 5, result.output
    assert "edgeres.quantization.isolate:run_file did not end within" in result.stderr


def test_a_crash_while_an_onnx_file_is_read_is_an_error(tmp_path, monkeypatch):
    # What a fault of the native parser would do; the child does it to itself.
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)
    crash = importlib.import_module("child_functions").read_file
    monkeypatch.setattr("edgeres.quantization.isolate.read_file", crash)
    with pytest.raises(StageError, match="SIGSEGV"):
        input_shape(plain(tmp_path / "net.onnx"))


def test_a_model_that_is_safe_passes_its_trial(tmp_path):
    net = plain(tmp_path / "net.onnx")
    try_model(net)
    assert input_shape(net) == (None, 1, 4, 4)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="Expected an ONNX model"):
        try_model(tmp_path / "text.onnx")


def test_a_model_without_an_input_is_no_model_here(tmp_path):
    one = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    constant = helper.make_node("Constant", [], ["y"], value_floats=[1.0])
    graph = helper.make_graph([constant], "none", [], [one])
    save_model(helper.make_model(graph), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="has no input"):
        input_shape(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="has no input"):
        try_model(tmp_path / "net.onnx")


def test_the_build_command_survives_a_model_that_wants_a_terabyte(tmp_path):
    # The optimizer folds constants while it builds, so the memory is asked for there already.
    net = greedy(tmp_path / "net.onnx")
    result = CliRunner().invoke(
        app, ["build", str(net), "--target", "onnxruntime", "--output", str(tmp_path / "e")]
    )
    assert result.exit_code in (0, 3, 5), result.output
    if result.exit_code:
        assert len(result.stderr.strip().splitlines()) == 1
        assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
        return
    with pytest.raises(StageError):
        try_engine(tmp_path / "e.onnx")
