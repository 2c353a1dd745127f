"""The moving average against its recurrence written out."""

from __future__ import annotations

import torch
from torch import nn

from edgeres.training.ema import MovingAverage


def test_recurrence_with_warm_up() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    average = MovingAverage(module, 0.4)
    expected = module[0].weight.detach().clone()
    for update in range(1, 6):
        with torch.no_grad():
            module[0].weight.add_(1.0)
            module[1].running_mean.add_(2.0)
            module[1].num_batches_tracked.add_(1)
        average.update()
        decay = min(0.4, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
    assert torch.allclose(average.module[0].weight, expected, atol=1e-6)
    assert average.module[1].num_batches_tracked == 5
    assert 0 < float(average.module[1].running_mean[0]) < 10


def test_average_is_apart_from_the_network() -> None:
    module = nn.Linear(2, 2)
    average = MovingAverage(module, 0.9)
    before = average.module.weight.clone()
    with torch.no_grad():
        module.weight.zero_()
    assert torch.equal(average.module.weight, before)
    assert not average.module.weight.requires_grad
    assert not average.module.training
