"""A classifier of several parts as the one linear layer that it is at inference.

``Sequential(Dropout, Linear)``, a linear layer without bias and batch normalization beside a linear
layer all are one matrix and one bias; dropout is nothing then. Two linear layers are not, since the
activation between them has no weights that tell it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from edgeres.errors import ModelError

Tensors = Mapping[str, torch.Tensor]
_PART = re.compile(r"^fc\.(?:(.+)\.)?([a-z_]+)$")
_EPSILON = 1e-5


def one_linear(state: Tensors, source: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """The state with one ``fc.weight`` and ``fc.bias``, and what was folded.

    Args:
        state: By canonical name; parts of the classifier are ``fc.<part>.<parameter>``.
        source: File name for messages.

    Raises:
        ModelError: The classifier has two linear layers.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    rest = {}
    for name, tensor in state.items():
        match = _PART.match(name)
        if match is None:
            rest[name] = tensor
        else:
            parts.setdefault(match[1] or "", {})[match[2]] = tensor
    ordered = [parts[name] for name in sorted(parts, key=_order)]
    linear = [i for i, part in enumerate(ordered) if _weight(part) == 2]
    if not linear:
        return dict(state), ()
    if len(linear) > 1:
        raise ModelError(
            f"The classifier in {source} has {len(linear)} linear layers; weights do not tell what "
            "stands between them.",
            hint="Give the code that makes the network: --model mymodel.py:build --weights FILE.",
        )
    (place,) = linear
    weight = ordered[place]["weight"].double()
    bias = ordered[place].get("bias", torch.zeros(weight.shape[0])).double()
    notes = []
    if "bias" not in ordered[place]:
        notes.append("its classifier has no bias.")
    for part in reversed(ordered[:place]):
        if _fits(part, weight.shape[1]):
            scale, shift = _affine(part)
            bias, weight = bias + weight @ shift, weight * scale
            notes.append("batch normalization before its classifier is folded into it.")
    for part in ordered[place + 1 :]:
        if _fits(part, weight.shape[0]):
            scale, shift = _affine(part)
            weight, bias = weight * scale[:, None], bias * scale + shift
            notes.append("batch normalization behind its classifier is folded into it.")
    return {**rest, "fc.weight": weight.float(), "fc.bias": bias.float()}, tuple(notes)


def _order(name: str) -> tuple[object, ...]:
    """Places in a Sequential; the layer that is the classifier itself has the place of its second.

    That is where Hugging Face has it, and nothing else lies beside a classifier of one layer.
    """
    if not name:
        return ((0, 1, ""),)
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in name.split(".") if part
    )


def _weight(part: Tensors) -> int:
    return part["weight"].dim() if "weight" in part else 0


def _fits(part: Tensors, width: int) -> bool:
    mean = part.get("running_mean")
    return mean is not None and "running_var" in part and mean.shape == (width,)


def _affine(part: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch normalization at inference as a factor and a summand, in float64."""
    mean, variance = part["running_mean"].double(), part["running_var"].double()
    scale = part.get("weight", torch.ones_like(mean)).double() / (variance + _EPSILON).sqrt()
    return scale, part.get("bias", torch.zeros_like(mean)).double() - mean * scale
