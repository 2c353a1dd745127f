"""Features of every number of dimensions: exported, calibrated, quantized, built and answered."""

import numpy as np
import pytest
import torch
from torch import nn

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.evaluation.predict import predict
from edgeres.exporting.to_onnx import export_onnx
from edgeres.recipe.quantize import QuantizeBlock
from edgeres.stages.int8 import calibrate, quantize

PLAIN = Preprocess(features=True)


class Residual(nn.Module):
    """One residual block between a stem and a head, over 0, 1 or 2 spatial dimensions."""

    def __init__(self, shape):
        super().__init__()
        layer = (nn.Linear, nn.Conv1d, nn.Conv2d)[len(shape) - 1]
        window = () if len(shape) == 1 else (3, 1, 1)
        self.axes = tuple(range(2, len(shape) + 1))
        self.stem = layer(shape[0], 16, *window)
        self.first, self.second = layer(16, 16, *window), layer(16, 16, *window)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        return self.head(x.mean(self.axes) if self.axes else x)


@pytest.mark.parametrize("shape", [(20,), (6, 40), (1, 12, 21)])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_features_reach_an_int8_engine(tmp_path, name, shape):
    backend = get_backend(name)
    if backend.missing() is not None:
        pytest.skip(f"{name} is missing")
    torch.manual_seed(0)
    net = Residual(shape).eval()
    inputs = np.random.default_rng(0).normal(size=(120, *shape)).astype(np.float32)
    with torch.no_grad():
        labels = net(torch.from_numpy(inputs)).argmax(1).numpy()
    np.savez(tmp_path / "data.npz", inputs=inputs, targets=labels)
    data = f"tensors:{tmp_path}/data.npz"
    onnx, table, qdq = (tmp_path / end for end in ("a.onnx", "a.json", "q.onnx"))
    export_onnx(net, shape, onnx)
    calibrate(onnx, table, data=data, samples=80, preprocess=PLAIN)
    rules, settings = backend.qdq_rules("cpu"), QuantizeBlock().part()
    quantize(
        onnx,
        table,
        qdq,
        rules=rules,
        settings=settings,
        data=data,
        samples=80,
        preprocess=PLAIN,
    )
    config = BuildConfig(device="cpu")
    engine = backend.build(qdq, tmp_path / f"q{backend.engine_suffix}", config)
    kinds = {"QLinearConv", "QGemm", "Convolution", "FullyConnected"}
    layers = [layer for layer in backend.layers(engine) if layer.op in kinds]
    assert [layer.precision for layer in layers] == ["int8"] * 4
    with backend.load(engine, config) as runner:
        found = predict(runner, open_dataset(data, split="validation"), PLAIN)
    assert (found.logits.argmax(1) == labels).mean() > 0.9
