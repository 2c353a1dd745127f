"""The pooled residual network: blocks of convolution, batch normalization and max-pooling, twice.

Each block halves the image twice, so its shortcut cannot be the identity: it is made well-formed
by one max-pooling over the same window grid and a 1x1 projection. Sizes need not be multiples of
four: both branches give ``ceil(H / 4)``.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.plan import ChannelPlan, projection_name
from edgeres.models.resnet import initialize, width


class PooledBlock(nn.Module):
    """``pool(bn(conv(.)))`` twice, added to a pooled 1x1 projection of the input."""

    def __init__(self, plan: ChannelPlan, prefix: str, in_width: int) -> None:
        super().__init__()
        middle, out = width(plan, f"{prefix}.conv1"), width(plan, f"{prefix}.conv2")
        name = projection_name(plan.spec, prefix)
        if width(plan, name) != out:
            raise ModelError(
                f"The plan gives '{name}' {plan.widths[name]} channels where {out} are added.",
                hint="Convolutions that meet in a residual sum must have one width.",
            )
        self.conv1 = nn.Conv2d(in_width, middle, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(3, 2, 1)
        self.pool2 = nn.MaxPool2d(3, 2, 1)
        # ceil(ceil(n / 2) / 2) = ceil(n / 4) = floor((n + 2 * 2 - 5) / 4) + 1
        self.shortcut_pool = nn.MaxPool2d(5, 4, 2)
        self.downsample = nn.Sequential(
            nn.Conv2d(in_width, out, 1, bias=False), nn.BatchNorm2d(out)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(N, C, H, W) float32`` to ``(N, C', ceil(H/4), ceil(W/4))``."""
        y = self.pool1(self.relu(self.bn1(self.conv1(x))))
        y = self.pool2(self.bn2(self.conv2(y)))
        result: torch.Tensor = self.relu(y + self.downsample(self.shortcut_pool(x)))
        return result


class PooledResNet(nn.Module):
    """A 3x3 stem and three pooled blocks, built from the channel plan."""

    def __init__(self, plan: ChannelPlan) -> None:
        super().__init__()
        self.plan = plan
        stream = width(plan, "conv1")
        self.conv1 = nn.Conv2d(plan.in_channels, stream, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stream)
        self.relu = nn.ReLU(inplace=True)
        self.stages = len(plan.spec.depths)
        for stage, depth in enumerate(plan.spec.depths):
            blocks = []
            for index in range(depth):
                prefix = f"layer{stage + 1}.{index}"
                blocks.append(PooledBlock(plan, prefix, stream))
                stream = width(plan, f"{prefix}.conv2")
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(stream, plan.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images ``(N, in_channels, H, W) float32`` to logits ``(N, num_classes)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits
