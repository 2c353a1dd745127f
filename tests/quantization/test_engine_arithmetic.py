"""Engines give what the Q/DQ file says where they once did not: each case is one engine quirk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.backends.portable import portable_rules
from edgeres.evaluation.coverage import int8_coverage
from edgeres.exporting.passes import normal_form, to_bytes
from edgeres.graph.summary import node_macs
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.quantization.scales import MIN_SCALE

PROGRAMS = Path(__file__).parents[2] / "benchmarks"
ENGINES = ("onnxruntime", "openvino")
CONFIG = BuildConfig(device="cpu", threads=1)
SIZE = 11


@pytest.fixture(scope="module")
def judge(load_program):
    return load_program(PROGRAMS / "quirk_judge.py")


@pytest.fixture
def rules():
    own = {name: get_backend(name).qdq_rules("cpu") for name in ENGINES}
    signed = portable_rules([*own.values(), get_backend("tensorrt").qdq_rules("cuda:0")])
    return {**own, "portable": signed, "shared": portable_rules(list(own.values()))}


@pytest.fixture
def answer(tmp_path, judge, rules):
    """``answer(net, engine, rules)``: steps off the file, and SQNR against FP32 in dB."""

    def run(net, engine_name, chosen, *, magnitude=1.0):
        source = net.save(tmp_path / "net.onnx", (3, SIZE, SIZE), 10)
        model = ir.load(source)
        normal_form(model)
        source.write_bytes(to_bytes(model))
        random = np.random.default_rng(5)
        images = (random.standard_normal((8, 3, SIZE, SIZE)) + 0.3).astype(np.float32) * magnitude
        images = images.astype(np.float32)
        qdq = tmp_path / "qdq.onnx"
        quantize(source, calibrate(source, [images], threads=1), rules[chosen], qdq)
        backend = get_backend(engine_name)
        engine = backend.build(qdq, tmp_path / f"engine{backend.engine_suffix}", CONFIG)
        with backend.load(engine, CONFIG) as runner:
            (got,) = runner.infer({"input": images}).values()
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        (right,) = session.run(None, {"input": images})
        noise = np.square(right - got).mean() / np.square(right).mean()
        right_by_file = judge.expected(onnx.load(qdq), images)
        return right_by_file.steps(got), -10 * np.log10(noise), qdq, engine

    return run


ATTRIBUTES = {
    "counted": {"count_include_pad": 1, "pads": [1] * 4},
    "counted_ceil": {"count_include_pad": 1, "pads": [1] * 4, "ceil_mode": 1},
    "counted_behind": {"count_include_pad": 1, "pads": [0, 0, 1, 1]},
    "ceil": {"ceil_mode": 1},
    "padded": {"pads": [1, 0, 2, 1]},
    "dilated": {"dilations": [2, 1], "pads": [1] * 4},
    "same": {"auto_pad": "SAME_UPPER", "count_include_pad": 1},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chosen", ["own", "shared", "portable"])
@pytest.mark.parametrize("attributes", ATTRIBUTES)
def test_average_pool_of_a_tensor_with_a_zero_point(build_net, answer, engine, chosen, attributes):
    net = build_net(1)
    x = net.conv("c1", "input", (12, 3, 3, 3))  # no Relu: the zero point lies in the middle
    x = net.add(
        "AveragePool", "avg", [x], kernel_shape=[3, 3], strides=[2, 2], **ATTRIBUTES[attributes]
    )
    x = net.relu("r2", net.conv("c2", x, (12, 12, 3, 3)))
    net.head(x, 12, 10)
    steps, sqnr, _, _ = answer(net, engine, engine if chosen == "own" else chosen)
    assert steps <= 1
    assert sqnr > 30


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chosen", ["own", "portable"])
def test_concat_of_unlike_scales(build_net, answer, engine, chosen):
    net = build_net(2)
    x = net.relu("r1", net.conv("c1", "input", (8, 3, 3, 3)))
    small = net.add(
        "Mul", "scaled", [net.conv("c2", x, (8, 8, 3, 3)), net.weight("f", np.float32([0.02]))]
    )
    large = net.relu("r3", net.conv("c3", x, (8, 8, 3, 3)))
    x = net.add("Concat", "joined", [large, small], axis=1)
    net.head(net.relu("r4", net.conv("c4", x, (12, 16, 3, 3))), 12, 10)
    steps, sqnr, _, _ = answer(net, engine, engine if chosen == "own" else chosen)
    assert steps <= 1
    assert sqnr > 30


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chosen", ["own", "shared", "portable"])
def test_bias_behind_a_relu_that_never_fires(build_net, answer, engine, chosen):
    net = build_net(3)
    x = net.relu("r1", net.conv("c1", "input", (8, 3, 3, 3)))
    bias = net.weight("dead.bias", np.full(8, -1000.0))
    weight = net.weight("dead.weight", net.random.standard_normal((8, 8, 3, 3)))
    y = net.add("Conv", "dead", [x, weight, bias], kernel_shape=[3, 3], pads=[1] * 4)
    y = net.conv("c3", net.relu("r2", y), (8, 8, 3, 3))
    net.initializers[-1].CopyFrom(  # far from zero, so that its overflow is seen
        numpy_helper.from_array(np.linspace(-3, 3, 8).astype(np.float32), "c3.bias")
    )
    net.head(net.relu("r4", net.add("Add", "add", [x, y])), 8, 10)
    steps, sqnr, _, _ = answer(net, engine, engine if chosen == "own" else chosen)
    assert steps <= 1
    assert sqnr > 30


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_smaller_than_fp16_holds(build_net, answer, engine):
    net = build_net(4)
    x = net.relu("r1", net.conv("c1", "input", (8, 3, 3, 3)))
    weight = net.weight("tiny.weight", net.random.standard_normal((8, 8, 3, 3)) * 1e-7)
    x = net.add("Conv", "tiny", [x, weight], kernel_shape=[3, 3], pads=[1] * 4)
    x = net.relu("r2", x)
    net.head(x, 8, 10)
    net.initializers[-1].CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), "fc.bias"))
    steps, sqnr, _, _ = answer(net, engine, engine)
    assert steps <= 1
    assert sqnr > 30


def test_scales_for_engines_that_hold_fp16_stay_above_its_floor(build_net, answer):
    net = build_net(4)
    x = net.relu("r1", net.conv("c1", "input", (8, 3, 3, 3)))
    weight = net.weight("tiny.weight", net.random.standard_normal((8, 8, 3, 3)) * 1e-7)
    x = net.relu("r2", net.add("Conv", "tiny", [x, weight], kernel_shape=[3, 3], pads=[1] * 4))
    net.head(x, 8, 10)
    _, _, qdq, _ = answer(net, "onnxruntime", "portable")
    constants = {i.name: numpy_helper.to_array(i) for i in onnx.load(qdq).graph.initializer}
    scales = [v for name, v in constants.items() if name.endswith("_scale")]
    assert min(float(v.min()) for v in scales) >= MIN_SCALE


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activated", [False, True])
def test_coverage_of_chains_of_dense_layers(build_net, answer, engine, activated):
    net = build_net(6)
    x = net.add("Flatten", "flat", [net.relu("r1", net.conv("c1", "input", (4, 3, 3, 3)))], axis=1)
    width = 4 * SIZE * SIZE
    for number, rows in enumerate((32, 16)):
        w = net.weight(f"fc{number}.w", net.random.standard_normal((rows, width)) / width**0.5)
        b = net.weight(f"fc{number}.b", net.random.standard_normal(rows))
        x = net.add("Gemm", f"dense{number}", [x, w, b], transB=1)
        x = net.relu(f"dense{number}.relu", x) if activated else x
        width = rows
    w = net.weight("fc.w", net.random.standard_normal((10, width)))
    net.nodes.append(
        onnx.helper.make_node("Gemm", [x, w, net.weight("fc.b", np.zeros(10))], ["logits"],
                              name="fc", transB=1)
    )  # fmt: skip
    steps, _, qdq, engine_made = answer(net, engine, engine)
    layers = get_backend(engine).layers(engine_made)
    assert steps <= 1
    assert int8_coverage(node_macs(qdq), layers).float_layers == ()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("magnitude", [1e-6, 1e-5, 1e6])
def test_residual_add_of_small_and_large_tensors(build_net, answer, engine, magnitude):
    net = build_net(7)
    x = net.conv("c1", "input", (8, 3, 3, 3), bias=False)  # no Relu: its zero point is not 0
    net.head(net.add("Add", "sum", [x, net.conv("c2", x, (8, 8, 3, 3), bias=False)]), 8, 10)
    net.initializers[-1].CopyFrom(numpy_helper.from_array(np.zeros(10, np.float32), "fc.bias"))
    steps, sqnr, _, _ = answer(net, engine, engine, magnitude=magnitude)
    assert steps <= 1
    assert sqnr > 25


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("groups", [2, 3])
def test_groups_of_one_channel_that_make_several(build_net, answer, engine, groups):
    net = build_net(8)
    x = net.relu("r1", net.conv("c1", "input", (groups, 3, 3, 3)))
    x = net.relu("r2", net.conv("c2", x, (4 * groups, 1, 3, 3), groups=groups))
    net.head(x, 4 * groups, 10)
    steps, sqnr, _, _ = answer(net, engine, engine)
    assert steps <= 1
    assert sqnr > 30


@pytest.mark.parametrize("engine", ENGINES)
def test_strided_convolution_of_one_tap_with_padding(build_net, answer, engine):
    net = build_net(9)
    x = net.conv("c1", "input", (8, 3, 3, 3))
    weight = net.weight("pick.weight", net.random.standard_normal((8, 8, 1, 1)))
    x = net.add("Conv", "pick", [x, weight], kernel_shape=[1, 1], strides=[2, 1], pads=[2, 0, 0, 1])
    net.head(net.relu("r2", x), 8, 10)
    steps, sqnr, _, _ = answer(net, engine, engine)
    assert steps <= 1
    assert sqnr > 30


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("average", ["GlobalAveragePool", "ReduceMean"])
def test_pools_of_residual_networks_cost_no_int8(build_net, answer, engine, average):
    """MaxPool 3x3 of stride 2, the AvgPool of a ResNet-D shortcut, and the pool at the end."""
    net = build_net(10)
    x = net.relu("r1", net.conv("stem", "input", (8, 3, 7, 7)))
    x = net.add("MaxPool", "stem.pool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    y = net.conv("c2", net.relu("r2", net.conv("c1", x, (16, 8, 3, 3), stride=2)), (16, 16, 3, 3))
    skip = net.add("AveragePool", "down.pool", [x], kernel_shape=[2, 2], strides=[2, 2],
                   ceil_mode=1, count_include_pad=0)  # fmt: skip
    x = net.relu("r3", net.add("Add", "sum", [y, net.conv("down", skip, (16, 8, 1, 1))]))
    net.head(x, 16, 10)
    if average == "ReduceMean":
        pool = next(node for node in net.nodes if node.op_type == "GlobalAveragePool")
        axes = numpy_helper.from_array(np.array([2, 3]), "axes")
        net.initializers.append(axes)
        pool.op_type = "ReduceMean"
        pool.input.append("axes")
    steps, sqnr, qdq, made = answer(net, engine, engine)
    layers = get_backend(engine).layers(made)
    assert steps <= 1
    assert sqnr > 30
    assert int8_coverage(node_macs(qdq), layers).float_layers == ()
    in_int8 = {n for layer in layers if layer.precision == "int8" for n in layer.nodes}
    assert {"stem.pool", "down.pool"} <= in_int8
