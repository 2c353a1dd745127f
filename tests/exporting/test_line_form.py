"""Networks over lines: the same answers as images of one row, in INT8 kernels, on both engines."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.exporting.import_onnx import import_onnx
from edgeres.exporting.passes import normal_form
from edgeres.exporting.to_onnx import export_onnx


class Block(nn.Module):
    """A residual block over ``(N, C, T)``."""

    def __init__(self, channels, stride=1, dilation=1):
        super().__init__()
        pad = dilation
        self.a = nn.Conv1d(channels, channels, 3, stride, pad, dilation, bias=False)
        self.bn = nn.BatchNorm1d(channels)
        self.b = nn.Conv1d(channels, channels, 3, 1, 1, groups=2)
        self.skip = nn.AvgPool1d(stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.skip(x) + self.b(torch.relu(self.bn(self.a(x)))))


class Net(nn.Module):
    """A small 1-D residual network over sensor windows."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(6, 8, 7, 2, 3), nn.BatchNorm1d(8), nn.PReLU(8))
        self.pool = nn.MaxPool1d(3, 2, 1)
        self.blocks = nn.Sequential(Block(8), Block(8, 2), Block(8, 1, 2))
        self.scale = nn.Parameter(torch.rand(8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.blocks(self.pool(self.stem(x)))
        return self.head((x * self.scale).mean(dim=2))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


def operators(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def ranks_of_layers(path):
    model = onnx.load(path)
    weights = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    return {weights[node.input[1]] for node in model.graph.node if node.op_type == "Conv"}


def test_a_1d_network_is_exported_over_rows(net, tmp_path):
    made = export_onnx(net, (6, 64), tmp_path / "a.onnx")
    assert made.sample_shape == (6, 64)
    assert ranks_of_layers(made.path) == {4}
    assert "GlobalAveragePool" in operators(made.path)
    assert "Squeeze" not in operators(made.path)
    assert sum(n.op_type == "Reshape" for n in onnx.load(made.path).graph.node) == 1
    images = np.random.default_rng(0).normal(size=(5, 6, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(made.path)
    (found,) = session.run(None, {"input": images})
    expected = net(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_foreign_1d_file_is_imported(net, tmp_path):
    torch.onnx.export(
        net,
        (torch.zeros(2, 6, 64),),
        tmp_path / "a.onnx",
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
    )
    made = import_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", layout=None)
    assert made.sample_shape == (6, 64)
    assert made.in_channels == 6
    assert ranks_of_layers(made.path) == {4}


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = AveragePool<kernel_shape=[3],pads=[1,0],strides=[2]>(c)", 3),
        ("y = MaxPool<kernel_shape=[2],dilations=[2]>(c)", 4),
        ("m = Concat<axis=-1>(c, c) y = Relu(m)", 12),
        ("m = Concat<axis=1>(c, c) y = Relu(m)", 6),
        ("y = ReduceMean<keepdims=1>(c, last)", 1),
        ("y = Add(c, column)", 6),
        ("y = Mul(row, c)", 6),
        ("y = Sub(c, block)", 6),
        ("y = Pad(c, pads)", 9),
        ("s = Softmax<axis=1>(c) y = Mul(s, c)", 6),
    ],
)
def test_every_rule_keeps_the_answer(build_graph, evaluate, body, shape):
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3)).astype(np.float32),
        "b": rng.normal(size=4).astype(np.float32),
        "last": np.array([2], np.int64),
        "column": rng.normal(size=(4, 1)).astype(np.float32),
        "row": rng.normal(size=6).astype(np.float32),
        "block": rng.normal(size=(1, 4, 6)).astype(np.float32),
        "pads": np.array([0, 0, 1, 0, 0, 2], np.int64),
    }
    used = {name: array for name, array in weights.items() if name in f"w b {body}"}
    channels = 8 if "axis=1>(c, c)" in body else 4
    model = build_graph(
        f"c = Conv<pads=[1,1]>(x, w, b) {body}",
        used,
        image="float[N,3,6] x",
        scores=f"float[N,{channels},{shape}] y",
    )
    rewritten = ir.from_proto(model)
    normal_form(rewritten)
    image = rng.normal(size=(3, 3, 6)).astype(np.float32)
    found = evaluate(ir.to_proto(rewritten), image)
    np.testing.assert_allclose(found, evaluate(model, image), atol=1e-5)
    convs = [node for node in rewritten.graph if node.op_type == "Conv"]
    assert all(len(node.inputs[1].shape) == 4 for node in convs)


def test_features_without_a_layer_over_lines_stay(build_graph, evaluate):
    model = build_graph(
        "f = Flatten(x) y = Gemm<transB=1>(f, w, b)",
        {"w": np.eye(4, 18, dtype=np.float32), "b": np.zeros(4, np.float32)},
        image="float[N,3,6] x",
    )
    rewritten = ir.from_proto(model)
    normal_form(rewritten)
    assert {node.op_type for node in rewritten.graph} == {"Flatten", "Gemm"}


def test_open_features_take_the_size_that_is_said(build_graph, tmp_path):
    weights = {"w": np.ones((4, 3, 3), np.float32), "b": np.zeros(4, np.float32)}
    model = build_graph(
        "c = Conv<pads=[1,1]>(x, w, b) p = GlobalAveragePool(c) y = Flatten(p)",
        weights,
        image="float[N,3,T] x",
    )
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="features of known size"):
        import_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx")
    for said in ({"open_size": (1, 20)}, {"sample_shape": (3, 20)}):
        made = import_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", **said)
        assert made.sample_shape == (3, 20)
    with pytest.raises(ModelError, match="for a sample of shape"):
        import_onnx(tmp_path / "a.onnx", tmp_path / "b.onnx", sample_shape=(4, 20))
