"""A random network in the making: what ``quirk_networks.py`` draws its blocks on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference


@dataclass
class Sketch:
    """A network in the making: the tensor at its end, and what led there."""

    random: np.random.Generator
    tensor: str
    shape: tuple[int, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    image: tuple[int, ...] = ()
    magnitude: float = 1.0

    def one_of(self, choices: Sequence[Any]) -> Any:
        """One of some values, all alike likely."""
        return choices[int(self.random.integers(len(choices)))]

    def whole(self, low: int, high: int) -> int:
        """A whole number in ``[low, high]``."""
        return int(self.random.integers(low, high + 1))

    def maybe(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.random.random() < probability)

    def constant(self, array: NDArray[np.generic] | np.generic) -> str:
        """Adds an initializer and gives its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def apply(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node of one output and gives the output's name."""
        output = f"t{len(self.nodes)}"
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def shape_of(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor for one image; ``ValueError`` where the attributes leave nothing."""
        graph = helper.make_graph(
            self.nodes, "g", [image_info("x", self.image)], [image_info(tensor, None)], self.weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        try:
            inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception as error:  # the C++ side raises types of its own
            raise ValueError(str(error)) from error
        dims = inferred.graph.output[0].type.tensor_type.shape.dim
        sizes = tuple(d.dim_value for d in dims)
        if any(size < 1 for size in sizes[1:]):
            raise ValueError(f"{tensor} is empty: {sizes}.")
        return sizes[1:]


def image_info(
    name: str, shape: tuple[int, ...] | None, batch: int | str = 1
) -> onnx.ValueInfoProto:
    """A float tensor with a batch in front; of any shape where ``None``."""
    return helper.make_tensor_value_info(
        name, TensorProto.FLOAT, None if shape is None else [batch, *shape]
    )
