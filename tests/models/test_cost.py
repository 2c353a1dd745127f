"""Multiply-adds and parameters against numbers known from elsewhere and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeres.models.build import build_model
from edgeres.models.cost import count_macs, count_parameters, layer_macs
from edgeres.models.plan import plan_for


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        # torchvision's table: 11.69 M, 1.81 GFLOPs and 25.56 M, 4.09 GFLOPs (multiply-adds)
        ("resnet18", 11_689_512, 1_814_073_344),
        ("resnet50", 25_557_032, 4_089_184_256),
        ("resnext50_32x4d", 25_028_904, 4_230_479_872),
    ],
)
def test_published_networks(name: str, parameters: int, macs: int) -> None:
    with torch.device("meta"):
        module = build_model(plan_for(name))
        assert count_parameters(module) == parameters
        assert count_macs(module, (3, 224, 224)) == macs


def test_by_hand_and_leaves_the_module_alone() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=4, padding=1),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(8 * 5 * 7, 10),
    ).train()
    module[3].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    macs = layer_macs(module, (3, 9, 13))
    assert macs == {"0": 5 * 7 * 8 * 27, "2": 5 * 7 * 8 * 18, "5": 280 * 10}
    assert count_macs(module, (3, 9, 13)) == sum(macs.values())
    assert [part.training for part in module] == [True, True, True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_a_layer_used_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    assert count_macs(Twice(), (4, 2, 2)) == 2 * 4 * 4 * 4
