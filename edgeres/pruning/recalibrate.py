"""Fresh statistics for batch normalization, which pruning has left describing wider inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from edgeres.errors import DataError
from edgeres.pruning.signals import Batch


def recalibrate(module: nn.Module, batches: Sequence[Batch]) -> None:
    """Replaces every running mean and variance by their averages over the batches.

    The module's weights are untouched; it is left in evaluation mode.

    Args:
        module: To change in place.
        batches: Images ``(N, C, H, W) float32`` and labels; those of one image are skipped, since
            a variance needs more.

    Raises:
        DataError: No batch of two images or more.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    device = next(module.parameters()).device
    usable = [images for images, _ in batches if len(images) > 1]
    if norms and not usable:
        raise DataError(
            "Batch normalization cannot be recalibrated: no batch has two images.",
            hint="Give at least two calibration images.",
        )
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
        norm.train()
    try:
        with torch.no_grad():
            for images in usable:
                module(torch.from_numpy(images).to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
