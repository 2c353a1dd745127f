"""An ONNX graph as a torch module that can be pruned, and its layers back into the graph.

Convolutions and fully connected layers are torch layers with the names of their nodes, so pruning
and fine-tuning see an ordinary network. Normalizations are folded in the graph; reconstruction and
training are better with them. So each convolution over a map gets one that changes nothing: it
takes the mean and the spread of what the convolution gives away and puts both back. In the graph
that comes out they are folded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeres.errors import ModelError
from edgeres.graph import edit
from edgeres.graph.layers import Layer, layer_of, node_name
from edgeres.graph.shapes import infer
from edgeres.pruning.signals import Batch
from edgeres.training.onnx_network import OnnxNetwork, Values
from edgeres.training.onnx_ops import Step

_NORM = "_norm"
_PARTS = frozenset({"Concat", "Split"})
#: Added to variances, as a share of the layer's mean variance.
_EPS = 1e-5
M = TypeVar("M", bound=nn.Module)


class PrunableOnnx(OnnxNetwork):
    """Runs the graph on ``(N, C, H, W) float32`` images; gives its outputs, logits for a Softmax.

    Attributes:
        paths: Names of the torch layers by the names of their nodes.
        ends_in_softmax: Of each output of the graph.
    """

    def __init__(self, graph: ir.Graph, *, channels_last_input: bool = False) -> None:
        """Takes the weights over.

        Args:
            graph: FP32 graph in normal form; stays as it was.
            channels_last_input: The graph's input is ``(N, H, W, C)``.

        Raises:
            ModelError: An op has no form here, or no layer can be pruned.
        """
        found = {node_name(node): layer_of(node) for node in graph}
        layers = {name: layer for name, layer in found.items() if _is_layer(layer)}
        super().__init__(graph, channels_last_input=channels_last_input, without=layers)
        for step in self.steps:
            if step.op in _PARTS:
                raise ModelError(
                    f"{step.op} (node {step.name}) joins or parts channels, which pruning of an "
                    "ONNX file does not follow.",
                    hint="Prune the network in the form that torch trains, or leave `prune:` out.",
                )
        if not any(isinstance(layer, Layer) and layer.kernel for layer in layers.values()):
            raise ModelError("the graph has no convolution that could be pruned.")
        last = {step.output: step for step in self.steps if step.output in self.outputs}
        cut = [step for step in last.values() if step.op == "Softmax"]
        self.ends_in_softmax = tuple(last.get(name) in cut for name in self.outputs)
        self.outputs = tuple(
            last[name].inputs[0] if is_cut else name
            for name, is_cut in zip(self.outputs, self.ends_in_softmax, strict=True)
        )
        self.steps = tuple(step for step in self.steps if step not in cut)
        self.paths: dict[str, str] = {}
        self._norms: dict[str, str] = {}
        for name, layer in layers.items():
            assert layer is not None
            self.paths[name] = _attach(self, name, _torch_layer(layer))

    def compute(self, step: Step, values: Values) -> Tensor:
        """The output of a node, of a layer with its normalization."""
        path = self.paths.get(step.name)
        if path is None:
            if step.op == "GlobalAveragePool":  # whose own form asks for the rank
                return self.read(step.inputs[0], values).mean(dim=(2, 3), keepdim=True)
            return super().compute(step, values)
        x = self.read(step.inputs[0], values)
        if step.op == "Conv" and any(pads := step.attributes.get("pads", (0, 0, 0, 0))):
            top, left, bottom, right = pads
            layer = self.get_submodule(path)
            assert isinstance(layer, nn.Conv2d)
            if layer.padding == (0, 0):
                x = functional.pad(x, (left, right, top, bottom))
        y: Tensor = self.get_submodule(path)(x)
        if path in self._norms:
            y = self.get_submodule(self._norms[path])(y)
        return y

    def add_norms(self, batches: Sequence[Batch]) -> None:
        """Puts a normalization that changes nothing behind each convolution over a map.

        Args:
            batches: Images ``(N, C, H, W) float32`` that tell means and variances.
        """
        convs = {
            path: layer
            for path in self.paths.values()
            if isinstance(layer := self.get_submodule(path), nn.Conv2d)
        }
        sums: dict[str, list[Tensor]] = {}

        def watch(path: str, layer: nn.Conv2d) -> object:
            def see(_: nn.Module, __: object, output: Tensor) -> None:
                if output[0, 0].numel() > 1:
                    variance, mean = torch.var_mean(output, dim=(0, 2, 3), correction=0)
                    if layer.bias is not None:
                        mean = mean - layer.bias
                    count = torch.full((), len(output), dtype=torch.float64)
                    squares = variance.double() + mean.double().square()
                    seen = [count, count * mean.double(), count * squares]
                    before = sums.get(path)
                    sums[path] = seen if before is None else _added(before, seen)

            return see

        handles = [
            layer.register_forward_hook(watch(path, layer))  # type: ignore[arg-type]
            for path, layer in convs.items()
        ]
        try:
            with torch.no_grad():
                for images, _ in batches:
                    self.eval()(torch.from_numpy(images))
        finally:
            for handle in handles:
                handle.remove()
        for path, (count, total, squares) in sums.items():
            mean = total / count
            variance = (squares / count - mean.square()).clamp(min=0)
            layer = convs[path]
            bias = torch.zeros(len(mean)) if layer.bias is None else layer.bias.detach()
            layer.bias = None
            self._norms[path] = _attach(self, path + _NORM, _unchanging(mean, variance, bias))

    def folded(self, name: str) -> tuple[np.ndarray, np.ndarray | None, int]:
        """Weight, bias and groups of a node's layer, its normalization folded in; float32."""
        layer = self.get_submodule(self.paths[name])
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        weight = layer.weight.detach().double()
        bias = None if layer.bias is None else layer.bias.detach().double()
        norm = self._norms.get(self.paths[name])
        if norm is not None:
            part = self.get_submodule(norm)
            assert isinstance(part, nn.BatchNorm2d)
            mean, variance = part.running_mean, part.running_var
            assert mean is not None
            assert variance is not None
            slope = part.weight.detach().double() / torch.sqrt(variance.double() + part.eps)
            weight = weight * slope.reshape(-1, *[1] * (weight.ndim - 1))
            start = 0.0 if bias is None else bias
            bias = (start - mean.double()) * slope + part.bias.detach().double()
        groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        return weight.float().numpy(), None if bias is None else bias.float().numpy(), groups


def write_back(model: ir.Model, network: PrunableOnnx) -> None:
    """Puts the layers of a network, which may be narrower by now, into the graph it was made of.

    Raises:
        ModelError: The graph's shapes contradict each other with them.
    """
    for node in model.graph:
        if node_name(node) not in network.paths:
            continue
        weight, bias, groups = network.folded(node_name(node))
        node.replace_input_with(1, edit.add_constant(node, "weight", weight))
        if bias is not None:
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, edit.add_constant(node, "bias", bias))
        if node.op_type == "Conv":
            node.attributes["group"] = ir.AttrInt64("group", groups)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and value not in model.graph.outputs:
            del model.graph.initializers[name]
    infer(model)


def _is_layer(layer: Layer | None) -> bool:
    """Whether a node becomes a torch layer: a 2-D convolution, or a Gemm as the normal form has."""
    if layer is None:
        return False
    if layer.node.op_type == "Conv":
        return len(layer.kernel) == 2
    attributes = layer.node.attributes
    return (
        layer.node.op_type == "Gemm"
        and attributes.get_int("transB", 0) == 1
        and attributes.get_int("transA", 0) == 0
        and attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
    )


def _torch_layer(layer: Layer) -> nn.Conv2d | nn.Linear:
    """The layer with its weights; padding that is not even is left to the caller."""
    weight = torch.from_numpy(np.array(layer.weight).reshape(layer.stored_shape))
    has_bias = layer.bias is not None
    made: nn.Conv2d | nn.Linear
    if layer.kernel:
        attributes = layer.node.attributes
        pads = attributes.get_ints("pads", (0, 0, 0, 0))
        even = tuple(pads[:2]) == tuple(pads[2:])
        made = nn.Conv2d(
            weight.shape[1] * layer.groups,
            len(weight),
            _pair(layer.kernel),
            _pair(attributes.get_ints("strides", (1, 1))),
            _pair(pads[:2]) if even else (0, 0),
            _pair(attributes.get_ints("dilations", (1, 1))),
            layer.groups,
            has_bias,
        )
    else:
        made = nn.Linear(weight.shape[1], len(weight), has_bias)
    with torch.no_grad():
        made.weight.copy_(weight)
        if layer.bias is not None:
            assert made.bias is not None
            made.bias.copy_(torch.from_numpy(np.array(layer.bias)))
    return made


def _unchanging(mean: Tensor, variance: Tensor, bias: Tensor) -> nn.BatchNorm2d:
    """A normalization that in evaluation mode only adds a bias."""
    eps = max(_EPS * float(variance.mean()), float(torch.finfo(torch.float32).tiny))
    norm = nn.BatchNorm2d(len(mean), eps=eps)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(torch.sqrt(norm.running_var + eps))
        norm.bias.copy_(norm.running_mean + bias)
    return norm.eval()


def _added(before: list[Tensor], seen: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(before, seen, strict=True)]


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _attach(root: nn.Module, name: str, module: nn.Module) -> str:
    """Puts a module below the root, at the place that its dotted name says if that is free."""
    *parents, last = name.split(".")
    place = root
    for piece in parents:
        inner = getattr(place, piece, None) if piece else place
        if inner is None:
            inner = nn.Module()
            place.add_module(piece, inner)
        if type(inner) is not nn.Module:
            break
        place = inner
    else:
        if last and not hasattr(place, last):
            place.add_module(last, module)
            return name
    flat = name.replace(".", "_") or "layer"
    while hasattr(root, flat):
        flat += "_"
    root.add_module(flat, module)
    return flat
