"""The operators of the normal form in torch: what ONNX says each computes, on float tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from edgeres.errors import ModelError
from edgeres.graph.layers import node_name, value_name

Arguments = Sequence[Tensor | None]
_PART = "(part, of how many)"  # no attribute is called so


@dataclass(frozen=True)
class Step:
    """One node, apart from its graph so that a network can be copied.

    Attributes:
        name: Name of the node.
        op: Op type.
        inputs: Names of its inputs; empty for one that is left out.
        output: Name of its output.
        attributes: Plain Python values.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]


def steps_of(node: ir.Node) -> Iterator[Step]:
    """Takes a node out of its graph: one step for each of its outputs.

    Raises:
        ModelError: There is no torch form of this op here.
    """
    if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
        raise ModelError(
            f"{node.op_type} (node {node.name}) has no form here that can be trained or pruned.",
            hint="Leave `qat:` and `prune:` out.",
        )
    plain = {name: _plain(attribute) for name, attribute in node.attributes.items()}
    for part, output in enumerate(node.outputs):
        yield Step(
            name=node_name(node),
            op=node.op_type,
            inputs=tuple("" if value is None else value_name(value) for value in node.inputs),
            output=value_name(output),
            attributes=plain
            if len(node.outputs) == 1
            else {**plain, _PART: (part, len(node.outputs))},
        )


def run_step(step: Step, arguments: Arguments) -> Tensor:
    """Computes a node's output from its inputs, in the order of the node."""
    return OPERATORS[step.op](step, arguments)


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    return tuple(value) if isinstance(value, list | tuple) else value


def _one(arguments: Arguments, index: int = 0) -> Tensor:
    value = arguments[index]
    assert value is not None
    return value


def _conv(step: Step, arguments: Arguments) -> Tensor:
    x, weight = _one(arguments), _one(arguments, 1)
    rank = weight.ndim - 2
    x, padding = _padded(step, x, rank, 0.0)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    return convolve(
        x,
        weight,
        arguments[2] if len(arguments) > 2 else None,
        stride=step.attributes.get("strides", (1,) * rank),
        padding=padding,
        dilation=step.attributes.get("dilations", (1,) * rank),
        groups=step.attributes.get("group", 1),
    )


def _padded(step: Step, x: Tensor, rank: int, value: float) -> tuple[Tensor, tuple[int, ...]]:
    """Padding for torch's own argument where both sides are alike, else applied to ``x``."""
    pads = step.attributes.get("pads", (0,) * (2 * rank))
    begin, end = pads[:rank], pads[rank:]
    if begin == end:
        return x, tuple(begin)
    sides = [side for axis in reversed(range(rank)) for side in (begin[axis], end[axis])]
    return functional.pad(x, sides, value=value), (0,) * rank


def _max_pool(step: Step, arguments: Arguments) -> Tensor:
    x = _one(arguments)
    kernel = step.attributes["kernel_shape"]
    x, padding = _padded(step, x, len(kernel), float("-inf"))
    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
    return pool(
        x,
        kernel,
        stride=step.attributes.get("strides", (1,) * len(kernel)),
        padding=padding,
        dilation=step.attributes.get("dilations", (1,) * len(kernel)),
        ceil_mode=bool(step.attributes.get("ceil_mode", 0)),
    )


def _average_pool(step: Step, arguments: Arguments) -> Tensor:
    x = _one(arguments)
    kernel = step.attributes["kernel_shape"]
    pads = step.attributes.get("pads", (0,) * (2 * len(kernel)))
    counted = bool(step.attributes.get("count_include_pad", 0))
    even = pads[: len(kernel)] == pads[len(kernel) :]
    plain = len(kernel) == 2 and set(step.attributes.get("dilations", (1,))) == {1}
    if not plain or not (even or counted):
        raise ModelError(
            f"this AveragePool (node {step.name}) has no form here that can be trained or pruned.",
            hint="Leave `qat:` and `prune:` out.",
        )
    x, padding = _padded(step, x, len(kernel), 0.0)
    return functional.avg_pool2d(
        x,
        kernel,
        stride=step.attributes.get("strides", (1,) * len(kernel)),
        padding=padding,
        ceil_mode=bool(step.attributes.get("ceil_mode", 0)),
        count_include_pad=counted,
    )


def _gemm(step: Step, arguments: Arguments) -> Tensor:
    x, weight = _one(arguments), _one(arguments, 1)
    if step.attributes.get("transA", 0):
        x = x.T
    if not step.attributes.get("transB", 0):
        weight = weight.T
    alpha, beta = (step.attributes.get(name, 1.0) for name in ("alpha", "beta"))
    product = functional.linear(x, weight)
    product = product if alpha == 1.0 else product * alpha
    bias = arguments[2] if len(arguments) > 2 else None
    return product if bias is None else product + (bias if beta == 1.0 else bias * beta)


def _clip(step: Step, arguments: Arguments) -> Tensor:
    low, high = (*arguments[1:3], None, None)[:2]
    if low is None and high is None:
        return _one(arguments)
    return torch.clamp(_one(arguments), low, high)


def _reduce_mean(step: Step, arguments: Arguments) -> Tensor:
    x = _one(arguments)
    axes = arguments[1].tolist() if len(arguments) > 1 and arguments[1] is not None else None
    axes = step.attributes.get("axes", axes)
    if not axes:
        raise ModelError(f"ReduceMean {step.name} names no axes.", hint="Export the model again.")
    return x.mean(dim=tuple(axes), keepdim=bool(step.attributes.get("keepdims", 1)))


def _reshape(step: Step, arguments: Arguments) -> Tensor:
    x, wanted = _one(arguments), _one(arguments, 1).tolist()
    kept = not step.attributes.get("allowzero", 0)
    sizes = [x.shape[i] if size == 0 and kept else size for i, size in enumerate(wanted)]
    return x.reshape([int(size) for size in sizes])


def _transpose(step: Step, arguments: Arguments) -> Tensor:
    x = _one(arguments)
    order = step.attributes.get("perm")
    return x.permute(tuple(reversed(range(x.ndim))) if order is None else order)


def _unsqueeze(step: Step, arguments: Arguments) -> Tensor:
    x, axes = _one(arguments), _one(arguments, 1).tolist()
    rank = x.ndim + len(axes)  # axes count in what comes out
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _pad(step: Step, arguments: Arguments) -> Tensor:
    x, amounts = _one(arguments), [int(side) for side in _one(arguments, 1).tolist()]
    filled = arguments[2] if len(arguments) > 2 else None
    mode = step.attributes.get("mode", "constant")
    if mode not in ("constant", b"constant") or len(amounts) != 2 * x.ndim:
        raise ModelError(
            f"this Pad (node {step.name}) has no form here that can be trained or pruned.",
            hint="Leave `prune:` and `qat:` out.",
        )
    begin, end = amounts[: x.ndim], amounts[x.ndim :]
    sides = [side for axis in reversed(range(x.ndim)) for side in (begin[axis], end[axis])]
    return functional.pad(x, sides, value=0.0 if filled is None else float(filled))


def _split(step: Step, arguments: Arguments) -> Tensor:
    x, axis = _one(arguments), step.attributes.get("axis", 0)
    part, parts = step.attributes.get(_PART, (0, 1))
    sizes = arguments[1] if len(arguments) > 1 else None
    each = -(-x.shape[axis] // parts) if sizes is None else [int(size) for size in sizes.tolist()]
    found: Tensor = torch.split(x, each, dim=axis)[part]
    return found


def _concat(step: Step, arguments: Arguments) -> Tensor:
    return torch.cat([_one(arguments, i) for i in range(len(arguments))], step.attributes["axis"])


def _softmax(step: Step, arguments: Arguments) -> Tensor:
    return torch.softmax(_one(arguments), dim=step.attributes.get("axis", -1))


OPERATORS: dict[str, Callable[[Step, Arguments], Tensor]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": lambda _, a: torch.matmul(_one(a), _one(a, 1)),
    "Relu": lambda _, a: torch.relu(_one(a)),
    "Clip": _clip,
    "Sigmoid": lambda _, a: torch.sigmoid(_one(a)),
    "HardSigmoid": lambda s, a: torch.clamp(
        s.attributes.get("alpha", 0.2) * _one(a) + s.attributes.get("beta", 0.5), 0.0, 1.0
    ),
    "LeakyRelu": lambda s, a: functional.leaky_relu(_one(a), s.attributes.get("alpha", 0.01)),
    "Tanh": lambda _, a: torch.tanh(_one(a)),
    "HardSwish": lambda _, a: functional.hardswish(_one(a)),
    "Add": lambda _, a: _one(a) + _one(a, 1),
    "Sub": lambda _, a: _one(a) - _one(a, 1),
    "Mul": lambda _, a: _one(a) * _one(a, 1),
    "Div": lambda _, a: _one(a) / _one(a, 1),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda _, a: _one(a).mean(dim=tuple(range(2, _one(a).ndim)), keepdim=True),
    "ReduceMean": _reduce_mean,
    "Flatten": lambda s, a: _one(a).flatten(s.attributes.get("axis", 1)),
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Pad": _pad,
    "Split": _split,
    "Concat": _concat,
    "Identity": lambda _, a: _one(a),
    "Dropout": lambda _, a: _one(a),
    "Softmax": _softmax,
}
