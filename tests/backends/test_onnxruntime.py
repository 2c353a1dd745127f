"""ONNX Runtime: settings of the session, fall-back, origin of fused layers."""

import json

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.onnxruntime.backend import BACKEND
from edgeres.errors import BackendMissingError, ModelError, UsageError
from edgeres.graph.summary import node_macs

from .conftest import write_network

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture
def engine(network, tmp_path) -> Engine:
    return BACKEND.build(network, tmp_path / "net.onnx", BuildConfig(threads=1))


def test_a_silent_fall_back_is_an_error(engine, images, monkeypatch):
    # ONNX Runtime itself only warns and goes on with the CPU.
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendMissingError, match="fell back to CPUExecutionProvider"),
    ):
        BACKEND.load(engine, BuildConfig(device="cuda:0"))


@pytest.mark.parametrize("device", ["cuda:0", "cuda:", "GPU", "", "cpu:0"])
def test_other_devices_are_refused(engine, device):
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(BackendMissingError, match=r"has no (device|CUDAExecutionProvider)"):
        BACKEND.load(engine, BuildConfig(device=device))


def test_int8_rules_are_for_the_cpu():
    with pytest.raises(BackendMissingError, match="tensorrt"):
        BACKEND.qdq_rules("cuda:0")


@pytest.mark.parametrize("level", ["all", "extended", "basic", "disabled"])
def test_every_option_gives_the_same_answer(engine, images, level):
    options = {"graph_optimization": level, "spinning": "false"}
    with (
        BACKEND.load(engine, BuildConfig(threads=1)) as plain,
        BACKEND.load(engine, BuildConfig(threads=2, options=options)) as other,
    ):
        np.testing.assert_allclose(
            other.infer({"input": images})["logits"],
            plain.infer({"input": images})["logits"],
            atol=1e-5,
        )


def test_wrong_values_of_options_are_refused(engine):
    with pytest.raises(UsageError, match="expected one of all, extended, basic, disabled"):
        BACKEND.load(engine, BuildConfig(options={"graph_optimization": "most"}))


def test_an_unknown_op_is_named(network, tmp_path):
    import onnx

    model = onnx.load(network)
    model.graph.node[0].op_type = "Convolute"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match="Convolute") as caught:
        BACKEND.build(tmp_path / "odd.onnx", tmp_path / "out.onnx", BuildConfig())
    assert caught.value.__cause__ is not None


def test_external_data_is_refused(network, tmp_path):
    import onnx

    onnx.save(
        onnx.load(network),
        tmp_path / "split.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    with pytest.raises(ModelError, match="rejects"):
        BACKEND.build(tmp_path / "split.onnx", tmp_path / "out" / "net.onnx", BuildConfig())


def test_fused_fp32_layers_name_all_their_nodes(engine):
    layers = BACKEND.layers(engine)
    convolutions = {layer.nodes for layer in layers if "Conv" in layer.op}
    assert ("stem", "stem_relu") in convolutions
    assert ("two", "add", "add_relu") in convolutions
    assert all(layer.time_ms is not None and layer.time_ms > 0 for layer in layers)


def test_symmetric_int8_is_caught_as_float(network, tmp_path):
    # The reason for uint8: behind a Relu, int8 does not fuse and half of the network stays float.
    from dataclasses import replace

    rules = replace(BACKEND.qdq_rules("cpu"), activation_dtype="int8", activation_symmetric=True)
    source = write_network(tmp_path / "s8.onnx", rules)
    layers = BACKEND.layers(BACKEND.build(source, tmp_path / "net.onnx", BuildConfig(threads=1)))
    precision = {node: layer.precision for layer in layers for node in layer.nodes}
    in_float = {name for name in node_macs(network) if precision[name] == "float32"}
    assert {"stem", "one"} <= in_float


def test_sessions_leave_no_profile_behind(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    BACKEND.layers(engine)
    assert sorted(tmp_path.iterdir()) == before


def test_the_engine_is_the_model(engine, network):
    assert engine.path.read_bytes() == network.read_bytes()
    record = json.loads(engine.path.with_name("net.onnx.engine.json").read_text())
    assert record["versions"] == {"onnxruntime": ort.__version__}
