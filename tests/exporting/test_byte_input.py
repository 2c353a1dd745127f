"""A network with its preprocessing inside answers pixels as it answered preprocessed images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeres.data.kinds import of_pixels
from edgeres.data.preprocess import Layout, Preprocess
from edgeres.errors import GateError, UsageError
from edgeres.exporting import byte_input
from edgeres.exporting.byte_input import write_byte_network
from edgeres.graph.byte_values import takes_pixels
from edgeres.graph.session import open_session, run_session

SIDE = 12
COLOUR = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Preprocess(scale=1.0, mean=(104.0, 117.0, 123.0), channel_order="bgr")


def network(
    path: Path,
    channels: int = 3,
    *,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    stride: int = 1,
    dilation: int = 1,
    group: int = 1,
    before: str = "",
    bias: bool = True,
    layout: Layout = "nchw",
) -> Path:
    """A convolution, Relu, pooling and a classifier; ``before`` is an operator in front."""
    random = np.random.default_rng(3)
    weights = {
        "w": random.standard_normal((8 * group, channels // group, 3, 3)).astype(np.float32),
        "b": random.standard_normal(8 * group).astype(np.float32),
        "fw": random.standard_normal((5, 8 * group)).astype(np.float32),
        "fb": random.standard_normal(5).astype(np.float32),
    }
    nodes, image = [], "input"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [image], ["t"], "t", perm=[0, 3, 1, 2]))
        image = "t"
    if before:
        nodes.append(helper.make_node(before, [image], ["front"], "front"))
        image = "front"
    nodes += [
        helper.make_node(
            "Conv",
            [image, "w", "b"] if bias else [image, "w"],
            ["c"],
            "c",
            pads=list(pads),
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            group=group,
        ),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "p"),
        helper.make_node("Flatten", ["p"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "fw", "fb"], ["logits"], "fc", transB=1),
    ]
    sample = [channels, SIDE, SIDE] if layout == "nchw" else [SIDE, SIDE, channels]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["N", *sample])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def differences(source: Path, out: Path, preprocess: Preprocess, layout: Layout) -> float:
    """The largest difference of the answers to random pixels, over the largest answer."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, SIDE, SIDE, preprocess.channels), np.uint8)
    grey = pixels[..., 0] if preprocess.channels == 1 else pixels
    fed = pixels if layout == "nhwc" else pixels.transpose(0, 3, 1, 2)
    (want,) = run_session(open_session(source.read_bytes()), preprocess.normalize(grey)).values()
    (got,) = run_session(open_session(out.read_bytes()), fed.astype(np.float32)).values()
    return float(np.abs(want - got).max() / np.abs(want).max())


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("preprocess", "pads", "head"),
    [
        (COLOUR, (1, 1, 1, 1), ["Split", "Pad", "Pad", "Pad", "Concat", "Sub", "Mul", "Conv"]),
        (CAFFE, (0, 1, 2, 1), ["Split", "Pad", "Pad", "Pad", "Concat", "Sub", "Mul", "Conv"]),
        (COLOUR, (0, 0, 0, 0), ["Sub", "Mul", "Conv"]),
        (Preprocess(mean=(0.5,), std=(0.5,)), (1, 1, 1, 1), ["Pad", "Sub", "Mul", "Conv"]),
        (Preprocess(channels=1, mean=(0.286,), std=(0.353,)), (2, 0, 0, 2), ["Pad"]),
        (Preprocess(channels=4, mean=(0.1, 0.2, 0.3, 0.4)), (1, 1, 1, 1), ["Split", "Pad"]),
    ],
)
def test_a_convolution_takes_the_preprocessing(
    tmp_path: Path,
    preprocess: Preprocess,
    pads: tuple[int, int, int, int],
    head: list[str],
    layout: Layout,
) -> None:
    source = network(tmp_path / "net.onnx", preprocess.channels, pads=pads, stride=2)
    write_byte_network(source, tmp_path / "out.onnx", preprocess, layout)
    found = operators(tmp_path / "out.onnx")
    assert found[0] == ("Transpose" if layout == "nhwc" else head[0])
    assert found[found.index(head[0]) :][: len(head)] == head
    assert takes_pixels(ir.load(tmp_path / "out.onnx"))
    assert differences(source, tmp_path / "out.onnx", preprocess, layout) < 2e-6


@pytest.mark.parametrize(
    "odd",
    [
        {"group": 3},
        {"before": "Relu"},
        {"layout": "nhwc", "before": "Abs"},
    ],
)
@pytest.mark.parametrize("preprocess", [COLOUR, CAFFE])
def test_any_other_network_has_it_in_front(
    tmp_path: Path, odd: dict[str, object], preprocess: Preprocess
) -> None:
    source = network(tmp_path / "net.onnx", **odd)  # type: ignore[arg-type]
    preprocess = replace(preprocess, layout=odd.get("layout", "nchw"))  # type: ignore[arg-type]
    write_byte_network(source, tmp_path / "out.onnx", preprocess, "nhwc")
    assert "Pad" not in operators(tmp_path / "out.onnx")
    assert differences(source, tmp_path / "out.onnx", preprocess, "nhwc") < 2e-6


def test_a_mean_that_no_pixel_has_is_not_padded_with(tmp_path: Path) -> None:
    bright = Preprocess(mean=(1.5,), std=(0.5,))
    source = network(tmp_path / "net.onnx")
    write_byte_network(source, tmp_path / "out.onnx", bright, "nchw")
    assert operators(tmp_path / "out.onnx")[:3] == ["Sub", "Mul", "Conv"]
    assert differences(source, tmp_path / "out.onnx", bright, "nchw") < 2e-6


@settings(max_examples=25)
@given(
    means=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    stds=st.lists(st.floats(0.05, 3), min_size=3, max_size=3),
    order=st.sampled_from(["rgb", "bgr"]),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.integers(1, 2),
    given_layout=st.sampled_from(["nchw", "nhwc"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    bias=st.booleans(),
)
def test_any_numbers(
    tmp_path_factory: pytest.TempPathFactory,
    means: list[float],
    stds: list[float],
    order: str,
    pads: tuple[int, int, int, int],
    dilation: int,
    given_layout: Layout,
    layout: Layout,
    bias: bool,
) -> None:
    folder = tmp_path_factory.mktemp("net")
    preprocess = Preprocess(
        mean=tuple(means),
        std=tuple(stds),
        channel_order=order,
        layout=given_layout,  # type: ignore[arg-type]
    )
    source = network(
        folder / "net.onnx", pads=pads, dilation=dilation, bias=bias, layout=given_layout
    )
    write_byte_network(source, folder / "out.onnx", preprocess, layout)
    assert differences(source, folder / "out.onnx", preprocess, layout) < 2e-5


def test_a_wrong_fold_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = network(tmp_path / "net.onnx")
    monkeypatch.setattr(byte_input, "_black", lambda preprocess: np.full(3, 120.0))
    with pytest.raises(GateError):
        write_byte_network(source, tmp_path / "out.onnx", COLOUR, "nhwc")
    assert not (tmp_path / "out.onnx").exists()


def test_only_images_are_bytes() -> None:
    with pytest.raises(UsageError, match="for images"):
        of_pixels(Preprocess(features=True), "nchw")
    left = of_pixels(CAFFE, "nhwc")
    assert left.keeps_numbers
    assert (left.channel_order, left.layout) == ("rgb", "nhwc")
