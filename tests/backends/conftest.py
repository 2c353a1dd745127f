"""A small residual network as FP32 ONNX, as Q/DQ under any rules, and as a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.base import QdqRules

IMAGE = (3, 12, 12)
CLASSES = 5
# Output tensor -> range that holds for images in [-1, 1]; found once by running the network.
RANGES = {"input": 1.0, "a": 2.7, "b": 1.9, "s": 1.9, "c": 3.2, "p": 3.2, "pooled": 1.3}


@dataclass
class Graph:
    """An ONNX graph that is being written, a line a node."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def node(self, op: str, inputs: list[str], output: str, name: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def save(self, path: Path, output: str, *, batch: int | str = "batch") -> Path:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *IMAGE])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return path


def weights() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(5)

    def normal(*shape: int) -> NDArray[np.float32]:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
        return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    made = {"stem": normal(16, 3, 3, 3), "one": normal(16, 16, 3, 3), "two": normal(16, 16, 1, 1)}
    made |= {"fc": normal(CLASSES, 16) * 4}
    return made | {f"{name}_bias": normal(len(value)) for name, value in made.items()}


def write_network(path: Path, rules: QdqRules | None = None, *, batch: int | str = "batch") -> Path:
    """stem, Relu, one, Relu, two, + skip, Relu, MaxPool, ReduceMean, fc; Q/DQ where rules say."""
    graph = Graph()
    wanted = rules.ops if rules else frozenset()

    def read(tensor: str, op: str) -> str:
        """The tensor as an op reads it: through Q/DQ where that op's inputs take it."""
        if op not in wanted:
            return tensor
        assert rules is not None
        quantized = f"{tensor}_dq"
        if not any(node.output[0] == quantized for node in graph.nodes):
            signed, limit = rules.activation_symmetric, RANGES[tensor]
            low = 0.0 if tensor in ("a", "b", "c", "p", "pooled") else -limit
            scale = limit / 127 if signed else (limit - low) / 255
            least = np.iinfo(rules.activation_dtype).min
            zero = 0 if signed else least + round(-low / scale)
            graph.constants |= {
                f"{tensor}_scale": np.asarray(scale, np.float32),
                f"{tensor}_zero": np.asarray(zero, rules.activation_dtype),
            }
            around = [f"{tensor}_scale", f"{tensor}_zero"]
            graph.node("QuantizeLinear", [tensor, *around], f"{tensor}_q", f"{tensor}_Q")
            graph.node("DequantizeLinear", [f"{tensor}_q", *around], quantized, f"{tensor}_DQ")
        return quantized

    def product(op: str, name: str, data: str, output: str, **attributes) -> str:
        values = weights()
        weight, bias = values[name], values[f"{name}_bias"]
        source = read(data, op)
        inputs = [source, f"{name}_w", f"{name}_b"]
        if op in wanted:
            assert rules is not None
            scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / np.float32(127)
            spread = scale.reshape(-1, *[1] * (weight.ndim - 1))
            graph.constants[f"{name}_w_q"] = np.round(weight / spread).astype(np.int8)
            graph.constants[f"{name}_w_scale"] = scale
            graph.constants[f"{name}_w_zero"] = np.zeros(len(weight), np.int8)
            around = [f"{name}_w_q", f"{name}_w_scale", f"{name}_w_zero"]
            graph.node("DequantizeLinear", around, f"{name}_w", f"{name}_w_DQ", axis=0)
            if rules.bias == "int32":
                scale = scale * graph.constants[f"{data}_scale"]
                graph.constants[f"{name}_b_q"] = np.round(bias / scale).astype(np.int32)
                graph.constants[f"{name}_b_scale"] = scale.astype(np.float32)
                around = [f"{name}_b_q", f"{name}_b_scale"]
                graph.node("DequantizeLinear", around, f"{name}_b", f"{name}_b_DQ", axis=0)
        for key, value in ((f"{name}_w", weight), (f"{name}_b", bias)):
            if not any(node.output[0] == key for node in graph.nodes):
                graph.constants[key] = value
        return graph.node(op, inputs, output, name, **attributes)

    graph.constants["axes"] = np.asarray([2, 3], np.int64)
    product("Conv", "stem", "input", "stem_sum", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph.node("Relu", ["stem_sum"], "a", "stem_relu")
    product("Conv", "one", "a", "one_sum", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    graph.node("Relu", ["one_sum"], "b", "one_relu")
    product("Conv", "two", "b", "s", kernel_shape=[1, 1])
    main = read("s", "Add") if rules and rules.residual == "both" else "s"
    graph.node("Add", [main, read("a", "Add")], "sum", "add")
    graph.node("Relu", ["sum"], "c", "add_relu")
    pooling = {"kernel_shape": [2, 2], "strides": [2, 2]}
    graph.node("MaxPool", [read("c", "MaxPool")], "p", "pool", **pooling)
    # An engine that fuses only DQ -> op -> Q needs the Q behind MaxPool although a mean reads it.
    mean_input = (
        read("p", "MaxPool") if rules and rules.quantize_outputs else read("p", "ReduceMean")
    )
    graph.node("ReduceMean", [mean_input, "axes"], "pooled", "mean", keepdims=0)
    product("Gemm", "fc", "pooled", "logits", transB=1)
    return graph.save(path, "logits", batch=batch)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32 ONNX with a dynamic batch: input ``(batch, 3, 12, 12)``, logits ``(batch, 5)``."""
    return write_network(tmp_path_factory.mktemp("network") / "net.onnx")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow ResNet-20 for 3 channels and 5 classes, with random weights."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from edgeres.models.build import build_model, plan_for
    from edgeres.models.checkpoint import Checkpoint, save_checkpoint

    torch.manual_seed(0)
    plan = plan_for("resnet20", num_classes=CLASSES, in_channels=3, width_multiplier=0.25)
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    save_checkpoint(path, Checkpoint(plan, dict(build_model(plan).state_dict())))
    return path


@pytest.fixture
def images() -> NDArray[np.float32]:
    """Seven images in [-1, 1]."""
    return np.random.default_rng(1).uniform(-1, 1, (7, *IMAGE)).astype(np.float32)


@pytest.fixture(scope="session")
def run() -> Callable[[onnx.ModelProto, NDArray[np.float32]], NDArray[np.float32]]:
    """``run(model, feed)``: the only output, node by node as it is written."""
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1

    def answer(model: onnx.ModelProto, feed: NDArray[np.float32]) -> NDArray[np.float32]:
        providers = ["CPUExecutionProvider"]
        session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
        return np.asarray(session.run(None, {"input": feed})[0])

    return answer
