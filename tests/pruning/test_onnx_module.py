"""An ONNX graph as a module that can be pruned: the same answers in both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgeres.data.batches import batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.errors import ModelError
from edgeres.graph.layers import load_model
from edgeres.graph.session import open_session
from edgeres.pruning.onnx_module import PrunableOnnx, write_back
from edgeres.pruning.prune import prune_module
from edgeres.pruning.signals import Batch
from edgeres.recipe.prune import PruneSettings

SHAPE = (3, 13, 11)
SETTINGS = PruneSettings(macs_ratio=0.5, round_to=2, samples=32, finetune=None)


class Graph:
    """Nodes with random weights, one after the other."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        """A random constant."""
        fan = max(1, int(np.prod(shape[1:])))
        values = self._random.standard_normal(shape).astype(np.float32) * np.sqrt(2 / fan)
        self.constants.append(
            numpy_helper.from_array(values.astype(np.float32), f"w{len(self.constants)}")
        )
        return self.constants[-1].name

    def number(self, value: float) -> str:
        """A constant number."""
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        """A node; its output has its name."""
        name = f"block.{len(self.nodes)}.{op}"
        self.nodes.append(helper.make_node(op, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def conv(self, x: str, inside: int, out: int, kernel: int, **attributes: object) -> str:
        """A convolution with padding that keeps the size, unless attributes say something else."""
        group = attributes.get("group", 1)
        assert isinstance(group, int)
        edge = kernel // 2
        weight = self.weight(out, inside // group, kernel, kernel)
        attributes = {"pads": [edge] * 4, "kernel_shape": [kernel] * 2, **attributes}
        return self.add("Conv", x, weight, self.weight(out), **attributes)

    def save(self, path: Path, last: str, shape: tuple[int, ...]) -> Path:
        """Writes the graph whose input is ``image``."""
        self.nodes[-1].output[0] = "scores"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *shape])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
            self.constants,
        )
        opset = helper.make_opsetid("", 20)
        made = helper.make_model(graph, opset_imports=[opset], ir_version=10)
        onnx.save(onnx.shape_inference.infer_shapes(made), path)
        return path


def mobile(path: Path) -> Path:
    """A depthwise block with a gate, padding on one side, channels last, and a Softmax."""
    graph = Graph()
    x = graph.add("Transpose", "image", perm=[0, 3, 1, 2])
    x = graph.add("Relu", graph.conv(x, 3, 12, 3, strides=[2, 2], pads=[0, 0, 1, 1]))
    y = graph.add("Clip", graph.conv(x, 12, 24, 1), graph.number(0.0), graph.number(6.0))
    y = graph.add("LeakyRelu", graph.conv(y, 24, 24, 3, group=24), alpha=0.1)
    gate = graph.add("Relu", graph.conv(graph.add("GlobalAveragePool", y), 24, 8, 1))
    gate = graph.add("Sigmoid", graph.conv(gate, 8, 24, 1))
    y = graph.conv(graph.add("Mul", y, gate), 24, 12, 1)
    x = graph.add("Add", x, y)
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)
    x = graph.add("Gemm", x, graph.weight(4, 12), graph.weight(4), transB=1)
    return graph.save(path, graph.add("Softmax", x, axis=-1), (13, 11, 3))


def random_images(count: int = 32) -> list[Batch]:
    images = np.random.default_rng(1).standard_normal((count, *SHAPE)).astype(np.float32)
    return [(images[i : i + 16], np.full(16, -1)) for i in range(0, count, 16)]


def answers(model: ir.Model, fed: np.ndarray) -> np.ndarray:
    session = open_session(ir.to_proto(model).SerializeToString(), threads=1)
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: fed})[0]
    return found


def channels(model: ir.Model) -> dict[str, int]:
    layers = [node for node in model.graph if node.op_type == "Conv"]
    return {str(node.name): node.inputs[1].const_value.shape[0] for node in layers}


def test_a_depthwise_block_with_a_gate_is_pruned_in_its_graph(tmp_path: Path) -> None:
    path = mobile(tmp_path / "m.onnx")
    model, data = load_model(path), random_images()
    dense = PrunableOnnx(model.graph, channels_last_input=True).eval()
    images = torch.from_numpy(data[0][0])
    fed = np.ascontiguousarray(data[0][0].transpose(0, 2, 3, 1))
    with torch.no_grad():
        whole = torch.softmax(dense(images), 1)
        np.testing.assert_allclose(whole, answers(model, fed), atol=1e-6)
        dense.add_norms(data)
        np.testing.assert_allclose(torch.softmax(dense(images), 1), whole, atol=1e-5)
    result = prune_module(dense, SETTINGS, data)
    assert isinstance(result.module, PrunableOnnx)
    write_back(model, result.module)
    with torch.no_grad():
        small = torch.softmax(result.module(images), 1)
    np.testing.assert_allclose(small, answers(model, fed), atol=1e-5)
    assert 0.3 < result.macs_ratio <= 0.5
    before, after = channels(load_model(path)), channels(model)
    assert sum(after.values()) < 0.8 * sum(before.values())
    (grouped,) = [node for node in model.graph if node.attributes.get_int("group", 1) > 1]
    name = str(grouped.name)
    assert grouped.attributes.get_int("group") == after[name] < before[name]


def test_normalizations_follow_what_the_convolutions_give(reference_onnx: Path) -> None:
    graph = load_model(reference_onnx).graph
    network = PrunableOnnx(graph).eval()
    images = open_dataset("fashion-mnist", split="calibration").subset(range(128))
    data = list(batches(images, Preprocess(mean=(0.286,), std=(0.353,), channels=1), 64))
    network.add_norms(data)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 21  # the convolutions
    assert all(network.get_submodule(path) for path in network.paths.values())
    seen: list[torch.Tensor] = []
    norms[3].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.no_grad():
        for shown, _ in data:
            network(torch.from_numpy(shown))
    whole = torch.cat(seen)
    torch.testing.assert_close(norms[3].running_mean, whole.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        norms[3].running_var, whole.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4
    )


def test_what_cannot_be_pruned_is_named(tmp_path: Path) -> None:
    graph = Graph()
    both = [graph.conv("image", 3, 8, 3), graph.conv("image", 3, 8, 1)]
    x = graph.add("GlobalAveragePool", graph.add("Concat", *both, axis=1))
    last = graph.add("Gemm", graph.add("Flatten", x), graph.weight(4, 16), transB=1)
    path = graph.save(tmp_path / "m.onnx", last, SHAPE)
    with pytest.raises(ModelError, match=r"Concat \(node block\.2\.Concat\) joins"):
        PrunableOnnx(load_model(path).graph)


def test_channels_that_a_constant_holds_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    graph = Graph()
    x = graph.add("Add", graph.conv("image", 3, 8, 3), graph.weight(1, 8, 1, 1))
    x = graph.add("GlobalAveragePool", graph.conv(x, 8, 8, 3))
    last = graph.add("Gemm", graph.add("Flatten", x), graph.weight(4, 8), transB=1)
    network = PrunableOnnx(load_model(graph.save(tmp_path / "m.onnx", last, SHAPE)).graph).eval()
    with pytest.raises(ModelError, match="does not run"):
        prune_module(network, SETTINGS, random_images())


def test_a_graph_without_convolutions_says_so(tmp_path: Path) -> None:
    graph = Graph()
    last = graph.add("Gemm", graph.add("Flatten", "image"), graph.weight(4, 429), transB=1)
    with pytest.raises(ModelError, match="no convolution that could be pruned"):
        PrunableOnnx(load_model(graph.save(tmp_path / "m.onnx", last, SHAPE)).graph)
