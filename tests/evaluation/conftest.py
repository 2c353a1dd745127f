"""Answers of made-up models, engines of a tiny classifier and of the reference network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.evaluation.predictions import Predictions
from edgeres.evaluation.validate import validate
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.recipe.recipe import ExportSettings
from edgeres.stages.int8 import calibrate, quantize
from edgeres.stages.network import build, export
from edgeres.system.assets import asset_path

Answer = Callable[..., Predictions]
#: Largest INT8 weight: two products with 255 stay within int16, so no CPU clips their sum.
LARGEST = 63


@pytest.fixture
def labels() -> NDArray[np.int64]:
    """1,000 labels of ten classes, 100 of each."""
    return np.arange(1000, dtype=np.int64) % 10


@pytest.fixture
def answer(labels: NDArray[np.int64]) -> Answer:
    """Builds answers that are wrong (by the next class) at the given samples."""

    def build(wrong: Sequence[int] = (), *, noise: float = 0.0, **about: str) -> Predictions:
        chosen = labels.copy()
        chosen[list(wrong)] = (chosen[list(wrong)] + 1) % 10
        logits = np.full((1000, 10), -1.0, dtype=np.float32)
        logits[np.arange(1000), chosen] = 5.0
        rng = np.random.default_rng(3)
        logits += noise * rng.standard_normal(logits.shape).astype(np.float32)
        return Predictions(logits=logits, labels=labels, **about)

    return build


def template_model(
    *,
    swapped: bool = False,
    quantized: bool = False,
    nan: bool = False,
    contrast: float = 1.0,
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0),
):
    """A 4x4 convolution with one template for each of three classes, FP32 or Q/DQ.

    ``swapped`` exchanges the last two classes, ``nan`` makes the first class's bias NaN,
    ``contrast`` is a factor of the weights and ``bias`` is added.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.float32(contrast) * (TEMPLATES[:, None].astype(np.float32) - 0.5)
    if swapped:
        weights = weights[[0, 2, 1]]
    added = np.array(bias, dtype=np.float32)
    if nan:
        added[0] = np.nan
    constants = {"b": added}
    if quantized:
        constants |= {
            "x_scale": np.float32(1 / 255),
            "x_zero": np.uint8(0),
            "w_q": np.round(weights * 2 * LARGEST).astype(np.int8),
            "w_scale": np.full(3, 0.5 / LARGEST, dtype=np.float32),
            "w_zero": np.zeros(3, dtype=np.int8),
            "b_q": np.round(added * 255 * 2 * LARGEST).astype(np.int32),
            "b_scale": np.full(3, 0.5 / 255 / LARGEST, dtype=np.float32),
            "b_zero": np.zeros(3, dtype=np.int32),
            "y_scale": np.float32(8 / 127),
            "y_zero": np.uint8(128),
        }
        del constants["b"]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"], name="q"),
            helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xf"], name="dq"),
            helper.make_node(
                "DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"], name="dqw", axis=0
            ),
            helper.make_node(
                "DequantizeLinear", ["b_q", "b_scale", "b_zero"], ["b"], name="dqb", axis=0
            ),
            helper.make_node("Conv", ["xf", "w", "b"], ["c"], name="templates"),
            helper.make_node("QuantizeLinear", ["c", "y_scale", "y_zero"], ["cq"], name="qy"),
            helper.make_node("DequantizeLinear", ["cq", "y_scale", "y_zero"], ["cf"], name="dqy"),
            helper.make_node("Flatten", ["cf"], ["logits"], name="flatten"),
        ]
    else:
        constants["w"] = weights
        nodes = [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], name="templates"),
            helper.make_node("Flatten", ["c"], ["logits"], name="flatten"),
        ]
    graph = helper.make_graph(
        nodes,
        "templates",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model


TEMPLATES = np.zeros((3, 4, 4), dtype=np.uint8)
TEMPLATES[0, :2] = TEMPLATES[1, 2:] = TEMPLATES[2, :, :2] = 1


@pytest.fixture(scope="session")
def shapes() -> ArrayDataset:
    """1,200 noisy 4x4 images of three templates."""
    rng = np.random.default_rng(11)
    labels = np.arange(1200, dtype=np.int64) % 3
    clean = 60 + 120.0 * TEMPLATES[labels]
    noisy = np.clip(clean + 75 * rng.standard_normal(clean.shape), 0, 255).astype(np.uint8)
    return ArrayDataset("shapes", noisy, labels, ("top", "bottom", "left"))


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ONNX Runtime engines as `convert` lays them out: good, swapped and broken ones."""
    import onnx

    backend = get_backend("onnxruntime")
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    root = tmp_path_factory.mktemp("output")
    made: dict[str, Path] = {}
    for name, options in {
        "fp32": {},
        "int8": {"quantized": True},
        "swapped": {"quantized": True, "swapped": True},
        "nan": {"nan": True},
    }.items():
        source = root / "baseline" / f"{name}.onnx"
        source.parent.mkdir(exist_ok=True)
        onnx.save(template_model(**options), source)
        out = root / name / f"model{backend.engine_suffix}"
        out.parent.mkdir()
        backend.build(source, out, BuildConfig())
        made[name], made[f"{name} source"] = out, source
    return made


GREY = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
ENGINES = ("onnxruntime", "openvino")
LAYER = "layer2.1.conv1"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the reference network, laid out as `convert` does."""
    folder = tmp_path_factory.mktemp("layered")
    fp32, table = folder / "baseline" / "model.onnx", folder / "baseline" / "table.json"
    fp32.parent.mkdir()
    checkpoint = asset_path("recipes", "checkpoints/fmnist_resnet20.safetensors")
    export(checkpoint, fp32, image_size=(28, 28), settings=ExportSettings())
    block = QuantizeBlock()
    calibrate(fp32, table, data="fashion-mnist", samples=32, preprocess=GREY, threads=1)
    (fp32.parent / "preprocess.json").write_text(GREY.to_json())
    for name in ENGINES:
        backend = get_backend(name)
        if backend.missing() is not None:
            continue
        qdq = folder / name / "model.qdq.onnx"
        qdq.parent.mkdir()
        quantize(fp32, table, qdq, rules=backend.qdq_rules("cpu"), settings=block)
        build(qdq, folder / name / "model", target=name)
    return folder


@pytest.fixture(scope="session")
def images():
    return open_dataset("fashion-mnist", split="validation").subset(range(12))


def engine_of(run: Path, name: str) -> Path:
    backend = get_backend(name)
    if (reason := backend.missing()) is not None:
        pytest.skip(reason)
    return run / name / f"model{backend.engine_suffix}"


def with_weight_scale(qdq: Path, out: Path, factor: float, layer: str = LAYER) -> Path:
    """A Q/DQ file in which the weight scales of one layer are multiplied."""
    model = onnx.load(qdq)
    scales = {f"{layer}.weight_scale", f"{layer}.bias_scale"}  # an INT32 bias must go along
    for scale in model.graph.initializer:
        if scale.name in scales:
            scale.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(scale) * factor, scale.name)
            )
    onnx.save(model, out)
    return out


@pytest.fixture
def planted(run, tmp_path) -> Path:
    """An output folder whose engine has one layer's scale doubled, with 300 images beside it."""
    name = "onnxruntime"
    engine_of(run, name)
    shutil.copytree(run / "baseline", tmp_path / "baseline")
    few = open_dataset("fashion-mnist", split="validation").subset(range(300))
    pixels = np.stack([few.image(index) for index in range(300)])
    np.savez(tmp_path / "few.npz", images=pixels, labels=few.labels)
    answers = validate(
        run / name / "model.onnx",
        open_dataset(f"npz:{tmp_path / 'few.npz'}", split="validation"),
        GREY,
        baseline=tmp_path / "baseline" / "model.onnx",
        threads=1,
    )
    answers.baseline.save(tmp_path / "baseline" / "predictions.npz")
    (tmp_path / name).mkdir()
    bad = with_weight_scale(run / name / "model.qdq.onnx", tmp_path / name / "model.qdq.onnx", 2.0)
    build(bad, tmp_path / name / "model", target=name, threads=1)
    return tmp_path
