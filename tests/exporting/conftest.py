"""Small graphs and networks that the export tests share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator
from torch import nn

from edgeres.exporting import foreign
from edgeres.exporting.parity import Tolerance

Weights = Mapping[str, NDArray[np.generic]]
BuildGraph = Callable[..., onnx.ModelProto]


@pytest.fixture(scope="session")
def build_graph() -> BuildGraph:
    """``build(body, weights, image=..., scores=..., opset=...)``: a model from ONNX's own text."""

    def build(
        body: str,
        weights: Weights | None = None,
        *,
        image: str = "float[N,3,6,6] x",
        scores: str = "float[N,4] y",
        opset: int = 20,
    ) -> onnx.ModelProto:
        graph = parser.parse_graph(f"test ({image}) => ({scores}) {{ {body} }}")
        for name, array in (weights or {}).items():
            graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8
        )

    return build


Evaluate = Callable[[onnx.ModelProto, NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="session")
def evaluate() -> Evaluate:
    """ONNX's reference evaluator on a model of one input and one output."""

    def run(model: onnx.ModelProto, image: NDArray[np.float32]) -> NDArray[np.float32]:
        onnx.checker.check_model(model)
        (result,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: image})
        return np.asarray(result)

    return run


Normalize = Callable[[onnx.ModelProto], onnx.ModelProto]


@pytest.fixture(scope="session")
def normalize(evaluate: Evaluate) -> Normalize:
    """The normal form of a model, checked against the model for batches of 1 and 3."""
    from edgeres.exporting.passes import normal_form, to_bytes

    def run(model: onnx.ModelProto) -> onnx.ModelProto:
        graph = ir.from_proto(model)
        normal_form(graph)
        result = onnx.ModelProto.FromString(to_bytes(graph))
        dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
        random = np.random.default_rng(0)
        batches = (1,) if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value else (1, 3)
        for batch in batches:
            image = random.standard_normal((batch, *dims), dtype=np.float32)
            np.testing.assert_allclose(
                evaluate(result, image), evaluate(model, image), rtol=1e-4, atol=1e-5
            )
        return result

    return run


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], onnx.ModelProto]]:
    """Imports a model in this process and returns what is told about it and the result."""

    def run(model: onnx.ModelProto, **changes: Any) -> tuple[dict[str, Any], onnx.ModelProto]:
        source, out = tmp_path / "foreign.onnx", tmp_path / "normal.onnx"
        source.write_bytes(model.SerializeToString())
        settings = {
            "source": source,
            "out": out,
            "opset": 20,
            "layout": None,
            "sample_shape": None,
            "outputs": (),
            "classes": True,
            "images": None,
            "tolerance": Tolerance(1e-6, 2e-4),
            "max_bytes": 1 << 30,
        }
        told = foreign.normalize_file(**(settings | changes))
        return told, onnx.load(out)

    return run


class OddBlock(nn.Module):
    """A residual block with what export must cope with: groups, squeeze, pooled shortcuts."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False, groups=2)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.squeeze = nn.Conv2d(outputs, 2, 1)
        self.excite = nn.Conv2d(2, outputs, 1)
        self.downsample = (
            nn.Sequential(
                nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
            if stride > 1
            else nn.Identity()
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.bn1(self.conv1(image)))
        out = self.bn2(self.conv2(out))
        weight = out.mean((2, 3), keepdim=True)
        out = out * torch.sigmoid(self.excite(torch.relu(self.squeeze(weight))))
        return self.relu(out + self.downsample(image))


class OddNet(nn.Module):
    """A tiny residual network with a max-pooled stem and dropout before its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(OddBlock(4, 4, 1), OddBlock(4, 8, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(image)))))
        return self.fc(self.dropout(torch.flatten(self.avgpool(out), 1)))


@pytest.fixture(scope="session")
def shake() -> Callable[[nn.Module], nn.Module]:
    """Gives every BatchNorm statistics of its own, as after training; eval mode."""

    def run(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(3)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.5, generator=generator)
                layer.running_var.uniform_(0.5, 2.0, generator=generator)
                with torch.no_grad():
                    layer.weight.uniform_(0.5, 1.5, generator=generator)
                    layer.bias.normal_(0, 0.5, generator=generator)
        return module.eval()

    return run


@pytest.fixture(scope="session")
def odd_net(shake: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The tiny network with fixed weights."""
    torch.manual_seed(0)
    return shake(OddNet())


@pytest.fixture(scope="session")
def small_net(shake: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """One convolution and a classifier: the quickest network to export."""
    torch.manual_seed(1)
    layers = {
        "conv": nn.Conv2d(3, 4, 3, bias=False),
        "bn": nn.BatchNorm2d(4),
        "relu": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(4, 5),
    }
    return shake(nn.Sequential(OrderedDict(layers)))
