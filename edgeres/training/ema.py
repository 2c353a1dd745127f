"""Moving average of a network's weights: what is evaluated, kept and shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """Keeps ``average = decay * average + (1 - decay) * weights`` beside a training network.

    Batch-normalization statistics are averaged too. The decay warms up as ``(1 + n) / (10 + n)``,
    so a short run is not held back by its random start (as TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``).

    Attributes:
        module: The averaged network, in evaluation mode.
        updates: Updates so far.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._pairs = _tensor_pairs(self.module, module)

    @torch.no_grad()
    def update(self) -> None:
        """Takes the training network's present weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages = [average for average, _ in self._pairs if average.is_floating_point()]
        weights = [weight for _, weight in self._pairs if weight.is_floating_point()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, weight in self._pairs:
            if not average.is_floating_point():
                average.copy_(weight)


def _tensor_pairs(average: nn.Module, source: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Matching parameters and buffers of two copies of one network."""
    kept = dict(average.named_parameters()) | dict(average.named_buffers())
    live = dict(source.named_parameters()) | dict(source.named_buffers())
    return [(kept[name].data, live[name].data) for name in kept]
