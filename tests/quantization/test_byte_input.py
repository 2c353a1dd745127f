"""Engines that are fed bytes: the first convolution reads them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.data.preprocess import Layout, Preprocess
from edgeres.errors import DataError
from edgeres.exporting.byte_input import write_byte_network
from edgeres.graph.feeds import as_taken
from edgeres.quantization.byte_input import write_fed
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize
from edgeres.sqnr import sqnr_db

from .conftest import FUSING, SYMMETRIC, resnet_onnx

COLOUR = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
GREY = Preprocess(channels=1, mean=(0.286,), std=(0.353,))
SIDE = 16


def photographs(count: int, channels: int, layout: Layout = "nhwc") -> NDArray[np.uint8]:
    """Smooth images of all brightnesses, ``(N, H, W, C)`` or ``(N, C, H, W) uint8``."""
    random = np.random.default_rng(1)
    coarse = random.uniform(0, 255, (count, SIDE // 4, SIDE // 4, channels))
    pixels = np.kron(coarse, np.ones((1, 4, 4, 1)))
    noisy = np.clip(pixels + random.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    return noisy if layout == "nhwc" else noisy.transpose(0, 3, 1, 2).copy()


def quantized(
    folder: Path, preprocess: Preprocess, layout: Layout, rules: object
) -> tuple[Path, Path, Path]:
    """A network, the same with pixels inside, and its Q/DQ file."""
    source = resnet_onnx(folder / "net.onnx", channels=preprocess.channels, size=SIDE)
    inside, qdq = folder / "pixels.onnx", folder / "qdq.onnx"
    write_byte_network(source, inside, preprocess, layout)
    images = photographs(48, preprocess.channels, layout).astype(np.float32)
    quantize(inside, calibrate(inside, [images]), rules, qdq)  # type: ignore[arg-type]
    return source, inside, qdq


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("preprocess", [COLOUR, GREY])
def test_nothing_is_computed_before_the_first_convolution(
    tmp_path: Path, preprocess: Preprocess, layout: Layout
) -> None:
    *_, qdq = quantized(tmp_path, preprocess, layout, FUSING)
    model = onnx.load(qdq)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    names = [node.op_type for node in model.graph.node]
    before = set(names[: names.index("DequantizeLinear")])
    assert before <= {"Transpose", "Split", "Pad", "Concat"}


def test_an_engine_that_takes_no_bytes_inside_gets_a_cast(tmp_path: Path) -> None:
    *_, qdq = quantized(tmp_path, COLOUR, "nhwc", SYMMETRIC)
    model = onnx.load(qdq)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.node[0].op_type == "Cast"
    assert "QuantizeLinear" in [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("preprocess", "layout"), [(COLOUR, "nhwc"), (GREY, "nchw")])
def test_engines_answer_bytes_as_they_answer_floats(
    tmp_path: Path, name: str, preprocess: Preprocess, layout: Layout
) -> None:
    backend = get_backend(name)
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    rules = backend.qdq_rules("cpu")
    source, inside, qdq = quantized(tmp_path, preprocess, layout, rules)
    usual = tmp_path / "usual.onnx"
    pixels = photographs(48, preprocess.channels)
    shown = pixels[..., 0] if preprocess.channels == 1 else pixels
    images = preprocess.normalize(shown)
    quantize(source, calibrate(source, [images]), rules, usual)
    fed = pixels if layout == "nhwc" else pixels.transpose(0, 3, 1, 2).copy()
    answers = {}
    for file, inputs in ((usual, images), (qdq, fed), (source, images)):
        engine = backend.build(file, tmp_path / f"{file.stem}-e{backend.engine_suffix}", CONFIG)
        with backend.load(engine, CONFIG) as runner:
            assert runner.inputs[0].dtype == str(inputs.dtype)
            (answers[file],) = runner.infer({"input": inputs}).values()
        if file == qdq:
            layers = {layer.name: layer for layer in backend.layers(engine)}
            first = next(layer for key, layer in layers.items() if key.startswith("stem.conv"))
            assert first.precision == "int8"
    floats, in_bytes = (sqnr_db(answers[source], answers[file]) for file in (usual, qdq))
    assert in_bytes > 20
    assert in_bytes > floats - 1.0
    assert inside.is_file()


CONFIG = BuildConfig(device="cpu", threads=1)


def test_a_float_network_that_takes_pixels_is_fed_bytes_too(tmp_path: Path) -> None:
    source = resnet_onnx(tmp_path / "net.onnx", size=SIDE)
    write_byte_network(source, tmp_path / "pixels.onnx", COLOUR, "nhwc")
    write_fed(tmp_path / "pixels.onnx", tmp_path / "fed.onnx")
    write_fed(source, tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == source.read_bytes()
    model = onnx.load(tmp_path / "fed.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.node[0].op_type == "Cast"


def test_what_is_no_byte_is_never_fed_as_one() -> None:
    whole = np.array([[0.0, 255.0]], np.float32)
    assert as_taken("uint8", whole).tolist() == [[0, 255]]
    for wrong in (0.5, -1.0, 256.0, np.nan):
        with pytest.raises(DataError, match="bytes"):
            as_taken("uint8", np.array([[1.0, wrong]], np.float32))
