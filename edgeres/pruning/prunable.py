"""Decides, before anything is changed, whether every operation of a network can lose channels.

torch-pruning takes an operation that it does not know for an element-wise one. On a channel
shuffle or a slice that is wrong without a word, so networks are checked first: each operation must
be known to keep channel ``c`` of its input in channel ``c`` of its output, and each parameter must
belong to one convolution, batch normalization or linear layer that runs once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.modules.answers import outputs_of

PRUNABLE_LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)

# Names of autograd nodes without their "Backward0".
_KEEPS_CHANNELS = frozenset(
    {
        "Convolution",
        "NativeBatchNorm",
        "CudnnBatchNorm",
        "MiopenBatchNorm",
        "Addmm",
        "Mm",
        "T",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Relu",
        "LeakyRelu",
        "Hardtanh",
        "Threshold",
        "Clamp",
        "ClampMin",
        "ClampMax",
        "ConstantPadNd",
        "Sigmoid",
        "Hardsigmoid",
        "Silu",
        "Hardswish",
        "Gelu",
        "Tanh",
        "MaxPool2DWithIndices",
        "AvgPool2D",
        "AdaptiveAvgPool2D",
        "AdaptiveMaxPool2D",
        "Mean",
        "Dropout",
        "View",
        "UnsafeView",
        "ReshapeAlias",
        "Squeeze",
        "Unsqueeze",
        "Clone",
        "Alias",
        "Detach",
        "ToCopy",
        "AccumulateGrad",
    }
)
_SUFFIX = re.compile(r"Backward\d*$")
_HINT = (
    "Networks made of convolution, batch normalization, ReLU, pooling, sums and SE can be pruned."
)


def check_prunable(module: nn.Module, sample: torch.Tensor) -> frozenset[str]:
    """Refuses networks whose channels cannot be removed safely.

    Args:
        module: The network, in evaluation mode, parameters requiring gradients.
        sample: One batch ``(N, C, H, W) float32``.

    Returns:
        Names of the layers whose channels are channels of an output, with nothing but operations
        that keep channels in between: those stay.

    Raises:
        ModelError: Naming the shared weight, the repeated layer, the layer type or the operation.
    """
    _check_parameters(module)
    calls: Counter[str] = Counter()
    written: dict[Any, str] = {}

    def ran(name: str, output: torch.Tensor) -> None:
        calls.update([name])
        written[output.grad_fn] = name

    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: ran(name, output))
        for name, part in module.named_modules()
        if isinstance(part, PRUNABLE_LAYERS)
    ]
    try:
        output = module(sample)
    finally:
        for handle in handles:
            handle.remove()
    repeated = [name for name, count in calls.items() if count > 1]
    if repeated:
        raise ModelError(
            f"Layer '{repeated[0]}' runs {calls[repeated[0]]} times in one pass.",
            hint="A layer that is used twice cannot be pruned; copy it first.",
        )
    outputs = outputs_of(output).values()
    for node in (node for one in outputs for node in _autograd_nodes(one)):
        operation = _SUFFIX.sub("", node.name().rsplit("::", 1)[-1])
        if operation not in _KEEPS_CHANNELS or _mixes_channels(operation, node):
            raise ModelError(
                f"Operation '{operation}' may mix or reorder channels, so the network cannot be "
                "pruned.",
                hint=_HINT,
            )
    return frozenset(
        written[node]
        for one in outputs
        for node in _autograd_nodes(one, behind=written)
        if node in written
    )


def _check_parameters(module: nn.Module) -> None:
    owners: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) in owners:
            raise ModelError(
                f"Weights are shared between '{owners[id(parameter)]}' and '{name}'.",
                hint="Shared weights cannot be pruned; copy them first.",
            )
        owners[id(parameter)] = name
    for name, part in module.named_modules():
        if isinstance(part, PRUNABLE_LAYERS):
            continue
        own = [n for n, _ in part.named_parameters(recurse=False)]
        if own:
            where = f"'{name}' ({type(part).__name__})" if name else type(part).__name__
            raise ModelError(f"Layer {where} has parameter '{own[0]}'.", hint=_HINT)


def _mixes_channels(operation: str, node: Any) -> bool:
    """Averages over channels and padding with channels."""
    if operation == "ConstantPadNd":
        sides = tuple(getattr(node, "_saved_pad", ()))
        return any(sides[4:]) or not sides  # the last two dimensions come first
    if operation == "Mean":
        dims = getattr(node, "_saved_dim", None)
        rank = len(getattr(node, "_saved_self_sym_sizes", ())) or 4
        if dims is None:
            return True
        dims = (dims,) if isinstance(dims, int) else dims
        # Autograd hands negative dimensions out as unsigned 64-bit numbers.
        return any((d - 2**64 if d >= 2**63 else d) % rank in (0, 1) for d in dims)
    return False


def _autograd_nodes(output: torch.Tensor, *, behind: Collection[Any] = ()) -> Iterator[Any]:
    """What an output was computed by, back to the inputs or to one of these nodes."""
    pending, seen = [output.grad_fn], {output.grad_fn}
    while pending:
        node = pending.pop()
        if node is None:
            continue
        yield node
        if node in behind:
            continue
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
