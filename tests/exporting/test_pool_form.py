"""Average pools in one form: every attribute, against ONNX Runtime's float kernels."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edgeres.exporting.passes import normal_form, to_bytes

RANDOM = np.random.default_rng(3)
# The Relu makes the answer depend on where in the map a value stands.
HEAD = (
    "q = Conv(p, w) r = Relu(q) g = GlobalAveragePool(r) f = Flatten(g) y = Gemm<transB=1>(f, fw)"
)
WEIGHTS = {
    "w": RANDOM.standard_normal((5, 3, 2, 2)).astype(np.float32),
    "fw": RANDOM.standard_normal((4, 5)).astype(np.float32),
}
PADS = {"none": (0, 0, 0, 0), "all": (1, 1, 1, 1), "behind": (0, 0, 1, 1), "mixed": (1, 0, 0, 2)}


def answers(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": image})[0]


def normalized(build_graph, attributes: str, size: int) -> tuple[onnx.ModelProto, float]:
    """The normal form of a pool with a head, and how far its answers are from the original's."""
    image = f"float[N,3,{size},{size + 1}] x"
    x = RANDOM.standard_normal((2, 3, size, size + 1)).astype(np.float32)
    body = f"c = Relu(x) p = AveragePool<{attributes}>(c) {HEAD}"
    model = build_graph(body, WEIGHTS, image=image)
    graph = ir.from_proto(model)
    normal_form(graph)
    result = onnx.ModelProto.FromString(to_bytes(graph))
    right = answers(model, x)
    return result, float(np.abs(answers(result, x) - right).max() / np.abs(right).max())


def pools(model: onnx.ModelProto) -> list[set[str]]:
    return [{a.name for a in n.attribute} for n in model.graph.node if n.op_type == "AveragePool"]


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize(("ceil", "counted"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_every_window_keeps_its_values(build_graph, pads, ceil, counted):
    for kernel, stride, size in itertools.product((2, 3), (1, 2, 3), (6, 7)):
        if max(PADS[pads]) >= kernel:
            continue
        model, error = normalized(
            build_graph,
            f"kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}], ceil_mode={ceil}, "
            f"count_include_pad={counted}, pads={list(PADS[pads])}",
            size,
        )
        assert error < 1e-5, (kernel, stride, size)
        assert all(not {"ceil_mode", "count_include_pad"} & names for names in pools(model))
        pad = [node for node in model.graph.node if node.op_type == "Pad"]
        assert len(pad) <= int(counted and any(PADS[pads]))


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("counted", [0, 1])
def test_automatic_padding_keeps_its_values(build_graph, mode, counted):
    for kernel, stride, size in itertools.product((2, 3), (1, 2), (6, 7)):
        model, error = normalized(
            build_graph,
            f'kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}], auto_pad="{mode}", '
            f"count_include_pad={counted}",
            size,
        )
        assert error < 1e-5, (kernel, stride, size)
        assert all("auto_pad" not in names for names in pools(model))


@pytest.mark.parametrize("pads", ["none", "all"])
@pytest.mark.parametrize(("ceil", "counted"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_dilated_windows_become_convolutions(build_graph, pads, ceil, counted):
    for kernel, stride in itertools.product((2, 3), (1, 2)):
        model, error = normalized(
            build_graph,
            f"kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}], dilations=[2,1], "
            f"ceil_mode={ceil}, count_include_pad={counted}, pads={list(PADS[pads])}",
            7,
        )
        assert error < 1e-5, (kernel, stride)
        assert not pools(model)


def test_a_window_as_large_as_the_image_with_padding_is_no_global_pool(build_graph):
    model, error = normalized(
        build_graph, 'kernel_shape=[6,7], auto_pad="SAME_UPPER", count_include_pad=0', 6
    )
    assert error < 1e-5
    assert [node.op_type for node in model.graph.node].count("GlobalAveragePool") == 1
    assert len(pools(model)) == 1


def test_the_pool_of_a_resnet_d_stays_one_node(build_graph):
    model, _ = normalized(
        build_graph,
        "kernel_shape=[2,2], strides=[2,2], ceil_mode=1, count_include_pad=0",
        7,
    )
    found = [node.op_type for node in model.graph.node]
    assert found == ["Relu", "AveragePool", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]
