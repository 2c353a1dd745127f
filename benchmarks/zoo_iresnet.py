"""The residual network of face recognition (insightface's IResNet-18) on small images."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn


class _Block(nn.Module):
    """Batch normalization first, PReLU, the stride in the second convolution, no Relu behind."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.PReLU(outside),
            nn.Conv2d(outside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )
            if stride > 1
            else nn.Identity()
        )

    def forward(self, image: Any) -> Any:
        """``(N, inside, H, W)`` to ``(N, outside, H / stride, W / stride)``."""
        return self.main(image) + self.shortcut(image)


class IResNet18(nn.Module):
    """``(N, 3, 64, 64) float32`` to an ``(N, 128) float32`` embedding that is not normalized."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        blocks: list[nn.Module] = []
        for before, width in pairwise(widths):
            blocks += [_Block(before, width, 2), _Block(width, width, 1)]
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 4 * 4, 128), nn.BatchNorm1d(128)
        )

    def forward(self, image: Any) -> Any:
        """The embedding."""
        return self.head(self.blocks(self.stem(image)))
