"""Least squares for one layer: from inputs and wanted outputs to weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

Layer = nn.Conv2d | nn.Linear

#: Pull towards the weights before, in mean energies of an input: at least so much, and the more the
#: fewer positions there are for each weight.
_RIDGE, _RIDGE_OF_FEW = 1e-3, 0.1
#: Numbers that are unfolded at once.
_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Fit:
    """Weights, and what the layer gives with them.

    Attributes:
        weight: In the layer's shape, float64.
        mean: ``(M,) float64`` of ``weight @ inputs``, without a bias.
        variance: ``(M,) float64`` likewise.
        wanted_mean: ``(M,) float64`` of the wanted outputs.
        wanted_variance: ``(M,) float64`` likewise.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor
    wanted_mean: torch.Tensor
    wanted_variance: torch.Tensor


class LeastSquares:
    """Sums over images and positions, for each group of a convolution apart."""

    def __init__(self, layer: Layer) -> None:
        """Begins with nothing seen."""
        self._layer = layer
        self._count = 0
        self._sums: list[torch.Tensor] = []
        self._shift: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        """Adds images.

        Args:
            inputs: What the layer reads, ``(N, C, H, W)`` or ``(N, K) float32``.
            wanted: What it is to give, ``(N, M, H', W')`` or ``(N, M) float32``.
        """
        for raw_x, raw_y in self._columns(inputs, wanted):
            if self._shift is None:  # sums of squares far from zero would lose the deviations
                self._shift = raw_x.mean(2, keepdim=True), raw_y.mean(2, keepdim=True)
            x, y = raw_x - self._shift[0], raw_y - self._shift[1]
            xt = x.transpose(1, 2)
            sums = [s.double() for s in (x.sum(2), y.sum(2), x @ xt, y @ xt, (y * y).sum(2))]
            before = self._sums or [torch.zeros_like(total) for total in sums]
            self._sums = [a + b for a, b in zip(before, sums, strict=True)]
            self._count += x.shape[2]

    def solve(self, *, centred: bool) -> Fit:
        """The weights of least squared error, pulled a little towards the layer's own.

        Args:
            centred: Only deviations from the mean are fitted: a bias or a normalization behind the
                layer sets the mean.
        """
        assert self._shift is not None
        mean_x, mean_y, xx, yx, yy = (total / self._count for total in self._sums)
        covariance = xx - mean_x[:, :, None] * mean_x[:, None, :]
        crossed = yx - mean_y[:, :, None] * mean_x[:, None, :]
        variance_y = (yy - mean_y**2).clamp(min=0)
        mean_x, mean_y = mean_x + self._shift[0][:, :, 0], mean_y + self._shift[1][:, :, 0]
        left, right = covariance, crossed
        if not centred:
            left = covariance + mean_x[:, :, None] * mean_x[:, None, :]
            right = crossed + mean_y[:, :, None] * mean_x[:, None, :]
        before = self._layer.weight.double().reshape(right.shape)
        energy = left.diagonal(dim1=1, dim2=2).mean(1)
        ridge = max(_RIDGE, _RIDGE_OF_FEW * left.shape[1] / self._count)
        pull = (ridge * energy).clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]
        system = left + pull * torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
        weight = torch.linalg.solve(system, (right + pull * before).transpose(1, 2))
        weight = weight.transpose(1, 2)
        return Fit(
            weight=weight.reshape(self._layer.weight.shape),
            mean=(weight @ mean_x[:, :, None]).reshape(-1),
            variance=((weight @ covariance) * weight).sum(2).clamp(min=0).reshape(-1),
            wanted_mean=mean_y.reshape(-1),
            wanted_variance=variance_y.reshape(-1),
        )

    def _columns(
        self, inputs: torch.Tensor, wanted: torch.Tensor
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs ``(G, K, P)`` and wanted outputs ``(G, M, P)`` of ``P`` positions."""
        layer = self._layer
        if isinstance(layer, nn.Linear):
            yield inputs.flatten(0, -2).T[None], wanted.flatten(0, -2).T[None]
            return
        rows = layer.weight[0].numel() * layer.groups
        some = max(1, _AT_ONCE // (rows * wanted[0, 0].numel()))
        for first in range(0, len(inputs), some):
            part = slice(first, first + some)
            columns = functional.unfold(
                _padded(layer, inputs[part]), layer.kernel_size, layer.dilation, 0, layer.stride
            )
            yield self._by_group(columns), self._by_group(wanted[part].flatten(2))

    def _by_group(self, values: torch.Tensor) -> torch.Tensor:
        """``(N, G * R, P)`` as ``(G, R, N * P)``."""
        images, _, places = values.shape
        groups = self._layer.groups if isinstance(self._layer, nn.Conv2d) else 1
        apart = values.reshape(images, groups, -1, places).permute(1, 2, 0, 3)
        return apart.reshape(groups, -1, images * places)


def _padded(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """Input with the layer's padding, of whatever kind."""
    sides: list[int] = layer._reversed_padding_repeated_twice
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(x, sides, mode=mode)
