"""What a torch network returns, whatever it puts around its tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgeres.errors import ModelError

OUTPUT = "logits"
_WORDS = ("logits", "scores", "prediction", "output", "out")


def scores_of(answer: Any) -> torch.Tensor:
    """The scores in what a network returns: a tensor, a mapping with them, or the first of several.

    Raises:
        ModelError: There is no tensor in it.
    """
    tensors: list[torch.Tensor]
    if isinstance(answer, torch.Tensor):
        tensors = [answer]
    elif isinstance(answer, Mapping):
        named = [answer[word] for word in _WORDS if isinstance(answer.get(word), torch.Tensor)]
        tensors = named or [v for v in answer.values() if isinstance(v, torch.Tensor)]
    elif isinstance(logits := getattr(answer, "logits", None), torch.Tensor):
        tensors = [logits]
    elif isinstance(answer, Sequence):
        tensors = [value for value in answer if isinstance(value, torch.Tensor)]
    else:
        tensors = []
    if not tensors:
        raise ModelError(
            f"Expected a network that returns class scores, got a {type(answer).__name__}.",
            hint="Return the tensor (N, classes) from its forward().",
        )
    return tensors[0]


def outputs_of(answer: Any) -> dict[str, torch.Tensor]:
    """All tensors in what a network returns, by name: of a mapping its keys, of several numbers.

    Raises:
        ModelError: There is no tensor in it.
    """
    if isinstance(answer, torch.Tensor):
        return {OUTPUT: answer}
    if isinstance(answer, Mapping):
        found = {str(k): value for k, value in answer.items() if isinstance(value, torch.Tensor)}
    elif isinstance(answer, Sequence):
        tensors = [value for value in answer if isinstance(value, torch.Tensor)]
        names = getattr(answer, "_fields", None) or [f"output_{n}" for n in range(len(tensors))]
        found = dict(zip(names, tensors, strict=False))
    else:
        found = {OUTPUT: scores_of(answer)}
    if not found:
        scores_of(answer)  # which says what was expected
    return found
