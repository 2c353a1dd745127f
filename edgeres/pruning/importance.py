"""How much a network would miss each channel: pure functions, one score a channel.

All take a float tensor whose first (or, for gates, second) dimension is the channels, and return
``(C,) float32`` on the same device; a higher score is a channel worth keeping. Scores of one
function are comparable within a group of channels. Across groups, the gate-based ones are in units
of the loss and comparable as they are; magnitudes need a normalization.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def l1(filters: Tensor) -> Tensor:
    """Sum of absolute weights (Li et al., 2017, arXiv:1608.08710); ``filters`` ``(C, K)``."""
    return filters.abs().sum(dim=1)


def l2(filters: Tensor) -> Tensor:
    """Euclidean norm of each filter (He et al., 2018, arXiv:1808.06866); ``(C, K)``."""
    return filters.square().sum(dim=1).sqrt()


def fpgm(filters: Tensor) -> Tensor:
    """Sum of distances to all other filters (He et al., 2019, arXiv:1811.00250, eq. 6); ``(C, K)``.

    Filters near the geometric median can be stood in for by the rest.
    """
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)


def bn_scale(gammas: Tensor) -> Tensor:
    """Batch normalization's scales (Liu et al., 2017, arXiv:1708.06519).

    Args:
        gammas: ``(C, L)``: one column for each normalization that writes the channel.
    """
    return gammas.abs().sum(dim=1)


def taylor(gates: Tensor) -> Tensor:
    """Mean absolute change of the loss, to first order (Molchanov et al., 2017, arXiv:1611.06440).

    Args:
        gates: ``(N, C)``: for each image, the derivative of its loss by a factor on the channel.
            Setting that factor from 1 to 0 changes the loss by minus the derivative at first order.
    """
    return gates.abs().mean(dim=0)


def taylor_hessian(gates: Tensor) -> Tensor:
    """Change of the loss to second order, with a diagonal Hessian.

    LeCun et al., 1989 ("Optimal Brain Damage", eq. 4), for factors on channels. The Hessian's
    diagonal is taken as the Fisher information, the mean squared derivative (Theis et al., 2018,
    arXiv:1801.05787, eq. 6). The first-order term vanishes at a trained network and is left out,
    as in both papers.

    Args:
        gates: ``(N, C)``, see :func:`taylor`.
    """
    return gates.square().mean(dim=0) / 2


def lamp(scores: Tensor) -> Tensor:
    """Layer-adaptive scores: each one's share of the sum of itself and all larger ones.

    Lee et al., 2021 (arXiv:2010.07611, eq. 4), with channels in place of weights and the score in
    place of the squared magnitude. The best channel of every group gets 1, so a global ranking
    never empties a group.

    Args:
        scores: ``(C,)``, at least 0.
    """
    ordered, order = scores.sort()
    remaining = ordered.flip(0).cumsum(0).flip(0)
    shares = ordered / remaining.clamp_min(torch.finfo(scores.dtype).tiny)
    result = torch.empty_like(scores)
    result[order] = shares
    return result


def by_mean(scores: Tensor) -> Tensor:
    """Scores over their mean, so that groups with larger weights do not win by that alone."""
    return scores / scores.mean().clamp_min(torch.finfo(scores.dtype).tiny)
