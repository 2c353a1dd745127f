"""OpenVINO: reproducible IR, FP32 that is FP32, fused residual blocks, batches."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig, Engine
from edgeres.backends.openvino import backend
from edgeres.backends.openvino.backend import BACKEND
from edgeres.backends.openvino.devices import find_device
from edgeres.backends.openvino.layers import _layers_by_constant
from edgeres.backends.openvino.run import core
from edgeres.backends.sidecar import read_engine
from edgeres.errors import ArtefactError, BackendMissingError, ModelError, UsageError
from edgeres.sqnr import sqnr_db

from .conftest import write_network

ov = pytest.importorskip("openvino", reason="openvino is not installed")
ONE = BuildConfig(threads=1)


@pytest.fixture
def engine(network, tmp_path) -> Engine:
    return BACKEND.build(network, tmp_path / "net.xml", ONE)


def test_the_ir_holds_nothing_of_this_process_or_machine(network, tmp_path):
    # Earlier conversions move OpenVINO's counter of names; the file's place must not matter either.
    rules = BACKEND.qdq_rules("cpu")
    elsewhere = tmp_path / "another place"
    elsewhere.mkdir()
    first = BACKEND.build(write_network(tmp_path / "a.onnx", rules), tmp_path / "1.xml", ONE)
    BACKEND.build(network, tmp_path / "between.xml", ONE)
    second = BACKEND.build(write_network(elsewhere / "b.onnx", rules), elsewhere / "2.xml", ONE)
    assert first.path.read_bytes() == second.path.read_bytes()
    text = first.path.read_text()
    assert not re.findall(r'name="(?!auto:)[A-Z][A-Za-z]+_\d+"', text)
    assert str(tmp_path) not in text
    assert first.source_sha256 in text


def test_weights_stay_in_fp32(engine):
    text = engine.path.read_text()
    assert 'element_type="f32"' in text
    assert "f16" not in text


def test_a_missing_weight_file_is_refused(engine):
    engine.path.with_suffix(".bin").unlink()
    with pytest.raises(ArtefactError, match=r"net\.bin: missing"):
        read_engine(engine.path)
    with pytest.raises(ArtefactError, match=r"net\.bin: missing"):
        BACKEND.load(engine, ONE)


def test_compiled_for_fp32_and_latency(engine, images):
    with BACKEND.load(engine, BuildConfig(threads=2, options={"pinning": "false"})) as runner:
        runner.infer({"input": images})
        compiled = runner.compiled
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
        assert str(compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")
        assert compiled.inputs[0].get_partial_shape().is_static


def test_bfloat16_is_one_where_the_cpu_has_it(network, engine, images, tmp_path):
    if not BACKEND.float_builds("cpu"):
        pytest.skip("this CPU has no instructions for bfloat16")
    config = replace(ONE, options=BACKEND.float_builds("cpu")["bf16"])
    half = BACKEND.build(network, tmp_path / "half.xml", config)
    assert half.path.read_bytes().replace(b"half.bin", b"net.bin") == engine.path.read_bytes()
    kinds = {layer.precision for layer in BACKEND.layers(half) if "Conv" in layer.op}
    assert kinds == {"bfloat16"}
    assert "bfloat16" not in {layer.precision for layer in BACKEND.layers(engine)}
    with BACKEND.load(engine, ONE) as exact, BACKEND.load(half, ONE) as runner:
        right = exact.infer({"input": images})["logits"]
        noise = sqnr_db(right, runner.infer({"input": images})["logits"])
    assert 25 < noise < 80
    assert "rest" not in BACKEND.runtime_options()


def test_dynamic_batch_is_an_option(engine, images):
    with (
        BACKEND.load(engine, ONE) as plain,
        BACKEND.load(engine, BuildConfig(threads=1, options={"batch": "dynamic"})) as dynamic,
    ):
        for batch in (1, 7):
            np.testing.assert_allclose(
                dynamic.infer({"input": images[:batch]})["logits"],
                plain.infer({"input": images[:batch]})["logits"],
                atol=1e-5,
            )
        assert dynamic.compiled.inputs[0].get_partial_shape().is_dynamic


def test_the_residual_add_is_fused_into_the_convolution(network, tmp_path):
    source = write_network(tmp_path / "qdq.onnx", BACKEND.qdq_rules("cpu"))
    layers = BACKEND.layers(BACKEND.build(source, tmp_path / "int8.xml", ONE))
    (home,) = [layer for layer in layers if "add" in layer.nodes]
    assert home.op == "Convolution"
    assert home.nodes[0] == "two"
    assert home.precision == "int8"
    assert {layer.op for layer in layers if layer.precision == "float32"} <= {
        "FakeQuantize",
        "Subgraph",
    }
    assert all(layer.time_ms is not None for layer in layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pinning": "yes"}, "expected one of default, true, false"), ({"streams": "2"}, "no option")],
)
def test_wrong_options_are_refused(engine, options, message):
    with pytest.raises(UsageError, match=message):
        BACKEND.load(engine, BuildConfig(options=options))


def test_only_the_cpu(network, tmp_path):
    with pytest.raises(BackendMissingError, match="'cuda:0'"):
        BACKEND.build(network, tmp_path / "net.xml", BuildConfig(device="cuda:0"))


@pytest.mark.parametrize(
    ("machine", "version", "told"),
    [("aarch64", "2.31", True), ("aarch64", "2.36", False), ("x86_64", "2.31", False)],
)
def test_a_system_that_is_too_old_for_the_wheel_is_told(monkeypatch, machine, version, told):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", version))
    reason = BACKEND.missing()
    assert reason is not None
    assert (f"needs glibc 2.35, here is {version}." in reason) is told


def test_snippets_stay_on_where_the_architecture_needs_them(engine, monkeypatch):
    """On Arm an INT8 matrix product has wrong sums without them; on x86 a ResNet is faster so."""
    off = {"SNIPPETS_MODE": "DISABLE"}
    cpu = find_device(core(), "cpu")
    for machine, without in (("x86_64", True), ("aarch64", False)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        settings, _ = backend._settings(BuildConfig(), cpu)
        assert (off.items() <= settings.items()) is without
        assert ("true" in BACKEND.runtime_options()["snippets"]) is without
    # An engine that was built so on x86 runs on Arm; nobody can ask for it there.
    BACKEND.check(BuildConfig())
    with pytest.raises(UsageError, match="wrong on Arm"):
        BACKEND.check(BuildConfig(options={"snippets": "false"}))
    settings, _ = backend._settings(BuildConfig(options={"snippets": "false"}), cpu)
    assert "SNIPPETS_MODE" not in settings


def test_an_unknown_op_is_named(network, tmp_path):
    import onnx

    model = onnx.load(network)
    model.graph.node[0].op_type = "Convolute"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match="Convolute") as caught:
        BACKEND.build(tmp_path / "odd.onnx", tmp_path / "out.xml", ONE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.xml").exists()


def test_times_leave_the_first_runs_out():
    from datetime import timedelta
    from types import SimpleNamespace

    from edgeres.backends.openvino.layers import RUNS, _times_ms

    # What OpenVINO says after each run: the mean of all so far, here 9 ms once and then 2 ms.
    spent = [9.0, *[2.0] * (RUNS - 1)]
    means = [sum(spent[:n]) / n for n in range(1, RUNS + 1)]
    answers = iter(
        [
            [SimpleNamespace(node_name="fc", real_time=timedelta(milliseconds=mean))]
            for mean in means
        ]
    )
    runner = SimpleNamespace(profile=lambda: next(answers))
    assert _times_ms(runner)["fc"] == pytest.approx(2.0, abs=0.01)


def test_only_the_last_batch_sizes_stay_compiled(engine, images):
    with BACKEND.load(engine, ONE) as runner:
        for batch in (2, 3, 4, 5, 6, 3):
            runner.infer({"input": images[:batch]})
        assert [shapes[0][0] for shapes in runner._requests] == [4, 5, 6, 3]


def test_a_layer_that_lost_its_name_is_known_by_its_weights(tmp_path):
    """One channel, spread over several by a Sub: OpenVINO fuses the names into the Sub."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, constants = [], {"scale": np.float32(0.03), "zero": np.uint8(0)}
    for tensor in ("x", "r"):
        pair = [f"{tensor}_q", f"{tensor}_d"]
        nodes += [
            helper.make_node("QuantizeLinear", [tensor, "scale", "zero"], pair[:1], tensor + "_q"),
            helper.make_node(
                "DequantizeLinear", [pair[0], "scale", "zero"], pair[1:], tensor + "_d"
            ),
        ]
    for name, source, out, width in (("one", "x_d", "o", 1), ("two", "r_d", "y", 4)):
        constants[f"{name}.w"] = random.integers(-60, 60, (width, 7, 3, 3)).astype(np.int8)
        constants[f"{name}.s"] = np.full(width, 0.004, np.float32)
        constants[f"{name}.z"] = np.zeros(width, np.int8)
        weights = [f"{name}.w", f"{name}.s", f"{name}.z"]
        nodes += [
            helper.make_node("DequantizeLinear", weights, [f"{name}.d"], name + "_w", axis=0),
            helper.make_node("Conv", [source, f"{name}.d"], [out], name, pads=[1] * 4),
        ]
    nodes[2:2] = [nodes.pop(4), nodes.pop(4)]
    nodes.insert(4, helper.make_node("Sub", ["x", "o"], ["s"], "sub"))
    nodes.insert(5, helper.make_node("Relu", ["s"], ["r"], "relu"))
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 7, 8, 11])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 11])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    layers = BACKEND.layers(BACKEND.build(tmp_path / "net.onnx", tmp_path / "net.xml", ONE))
    for name in ("one", "two"):
        assert [layer.precision for layer in layers if name in layer.nodes] == ["int8"]


def test_a_product_of_two_images_takes_no_layer_its_weights(tmp_path):
    """Attention behind residual blocks: the paths to the image double with each of them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {f"w{n}": random.standard_normal((4, 4, 1, 1)).astype(np.float32) for n in range(12)}
    nodes, value = [], "x"
    for name in weights:
        nodes.append(helper.make_node("Conv", [value, name], [f"{name}.c"], f"conv {name}"))
        nodes.append(helper.make_node("Add", [f"{name}.c", value], [f"{name}.a"]))
        value = f"{name}.a"
    nodes.append(helper.make_node("Transpose", [value], ["t"], perm=[0, 1, 3, 2]))
    nodes.append(helper.make_node("MatMul", [value, "t"], ["y"], "attend"))
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 3, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 3, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    engine = BACKEND.build(tmp_path / "net.onnx", tmp_path / "net.xml", ONE)
    by_constant = _layers_by_constant(ov.Core().read_model(engine.path))
    assert by_constant == {name: f"conv {name}" for name in weights}
