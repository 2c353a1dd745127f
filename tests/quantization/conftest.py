"""Small residual networks in ONNX normal form, made here with numpy and onnx alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.base import QdqRules
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.table import CalibrationTable

# A loaded machine is no reason to fail; the tests themselves are quick.
settings.register_profile("quantization", deadline=None)
settings.load_profile("quantization")

U8_OPS = frozenset({"Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"})
#: Like an engine that fuses DQ -> op -> Q and keeps INT32 biases (x86 CPU, asymmetric uint8).
FUSING = QdqRules(
    name="fusing-u8",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=U8_OPS,
    bias="int32",
    residual="both",
    quantize_outputs=True,
)
#: Like an engine that folds the Add into the convolution (symmetric int8, float bias).
SYMMETRIC = QdqRules(
    name="symmetric-s8",
    activation_dtype="int8",
    activation_symmetric=True,
    ops=frozenset({"Conv", "Gemm", "Add", "GlobalAveragePool"}),
    bias="float",
    residual="skip",
)


@dataclass
class NetBuilder:
    """Writes Conv/Relu/Add/... nodes with random He-scaled weights."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def weight(self, name: str, value: NDArray[np.float32]) -> str:
        self.initializers.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def add(self, op: str, name: str, inputs: list[str], **attributes: object) -> str:
        out = f"{name}_out"
        self.nodes.append(helper.make_node(op, inputs, [out], name=name, **attributes))
        return out

    def conv(
        self,
        name: str,
        x: str,
        shape: tuple[int, ...],
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> str:
        fan_in = int(np.prod(shape[1:]))
        w = self.random.standard_normal(shape) * np.sqrt(1.6 / fan_in)
        w *= self.random.uniform(0.5, 1.5, (shape[0], *[1] * (len(shape) - 1)))
        names = [x, self.weight(f"{name}.weight", w)]
        if bias:
            b = self.random.standard_normal(shape[0]) * 0.1
            names.append(self.weight(f"{name}.bias", b))
        pad = shape[2] // 2
        return self.add(
            "Conv", name, names, kernel_shape=list(shape[2:]), strides=[stride] * 2,
            pads=[pad] * 4, group=groups,
        )  # fmt: skip

    def relu(self, name: str, x: str) -> str:
        return self.add("Relu", name, [x])

    def block(self, name: str, x: str, width_in: int, width: int, *, stride: int = 1) -> str:
        y = self.relu(f"{name}.relu1", self.conv(f"{name}.conv1", x, (width, width_in, 3, 3),
                                                 stride=stride))  # fmt: skip
        y = self.conv(f"{name}.conv2", y, (width, width, 3, 3))
        skip = x
        if stride != 1 or width_in != width:
            skip = self.conv(f"{name}.down", x, (width, width_in, 1, 1), stride=stride)
        return self.relu(f"{name}.relu2", self.add("Add", f"{name}.add", [y, skip]))

    def head(self, x: str, width: int, classes: int) -> None:
        x = self.add("GlobalAveragePool", "pool", [x])
        x = self.add("Flatten", "flatten", [x], axis=1)
        w = self.random.standard_normal((classes, width)) / np.sqrt(width)
        b = self.random.standard_normal(classes) * 0.1
        names = [x, self.weight("fc.weight", w), self.weight("fc.bias", b)]
        self.nodes.append(helper.make_node("Gemm", names, ["logits"], name="fc", transB=1))

    def save(self, path: Path, shape: tuple[int, ...], classes: int) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def attention_network(path: Path) -> Path:
    """Rows of 64 pixels attend to each other; what is multiplied is read by a layer, too."""
    net = NetBuilder()
    x = net.conv("stem", "input", (8, 3, 3, 3))
    sizes = {"rows": [-1, 4, 64], "image": [-1, 8, 8, 8]}
    for name, numbers in sizes.items():
        net.initializers.append(numpy_helper.from_array(np.array(numbers), name))
    rows = net.add("Reshape", "rows_of", [x, "rows"])
    turned = net.add("Transpose", "turned", [rows], perm=[0, 2, 1])
    scores = net.add("MatMul", "scores", [turned, rows])
    weights = net.add("Softmax", "softmax", [scores], axis=2)
    mixed = net.add("MatMul", "mixed", [turned, net.weight("mix", np.eye(4) * 0.7 + 0.1)])
    seen = net.add("MatMul", "seen", [weights, mixed])
    back = net.add("Transpose", "back", [seen], perm=[0, 2, 1])
    net.head(net.add("Add", "add", [net.add("Reshape", "as_image", [back, "image"]), x]), 8, 5)
    return net.save(path, (3, 8, 8), 5)


def context_network(path: Path) -> Path:
    """Pixels weighed by a Softmax that is the second factor, as in a global context block."""
    net = NetBuilder()
    x = net.conv("stem", "input", (8, 3, 3, 3))
    sizes = {"rows": [-1, 8, 64], "line": [-1, 1, 64], "column": [-1, 64, 1], "one": [-1, 8, 1, 1]}
    for name, numbers in sizes.items():
        net.initializers.append(numpy_helper.from_array(np.array(numbers), name))
    rows = net.add("Reshape", "rows_of", [x, "rows"])
    scores = net.add("Reshape", "scores_of", [net.conv("seen", x, (1, 8, 1, 1)), "line"])
    weights = net.add("Softmax", "softmax", [scores], axis=2)
    context = net.add(
        "MatMul", "context", [rows, net.add("Reshape", "turned", [weights, "column"])]
    )
    mixed = net.conv("mix", net.add("Reshape", "pixel", [context, "one"]), (8, 8, 1, 1))
    net.head(net.add("Add", "add", [x, mixed]), 8, 5)
    return net.save(path, (3, 8, 8), 5)


def resnet_onnx(
    path: Path, *, seed: int = 0, width: int = 8, channels: int = 3, size: int = 16
) -> Path:
    """Stem, MaxPool, an identity block, a projection block, an identity block, pooling, Gemm."""
    net = NetBuilder(seed)
    x = net.relu("stem.relu", net.conv("stem.conv", "input", (width, channels, 3, 3)))
    x = net.add("MaxPool", "stem.pool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    x = net.block("block1", x, width, width)
    x = net.block("block2", x, width, 2 * width, stride=2)
    x = net.block("block3", x, 2 * width, 2 * width)
    net.head(x, 2 * width, 10)
    return net.save(path, (channels, size, size), 10)


def smooth_images(count: int, *, channels: int = 3, size: int = 16, seed: int = 0) -> NDArray:
    """Random images with neighbouring pixels alike, 8 bits a pixel, then normalized."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, channels, size // 4, size // 4))
    image = np.kron(coarse, np.ones((1, 1, 4, 4))) + random.normal(0, 20, (1, 1, size, size))
    pixels = np.clip(np.rint(image), 0, 255) / 255
    return ((pixels - 0.45) / 0.25).astype(np.float32)


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnet_onnx(tmp_path_factory.mktemp("resnet") / "net.onnx")


@pytest.fixture(scope="session")
def images() -> NDArray[np.float32]:
    return smooth_images(24)


@pytest.fixture(scope="session")
def test_images() -> NDArray[np.float32]:
    return smooth_images(48, seed=1)


@pytest.fixture(scope="session")
def table(resnet: Path, images: NDArray[np.float32]) -> CalibrationTable:
    return calibrate(resnet, [images])


@pytest.fixture(scope="session")
def build_net() -> Callable[[int], NetBuilder]:
    return NetBuilder


def sqnr_db(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    error = np.square(reference.astype(np.float64) - other).sum()
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / error))
