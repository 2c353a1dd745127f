"""Weights that make up for removed channels, by least squares: no labels, no training.

Each layer of the narrowed network is fitted to what the same layer of the dense network gives for
the same images (He et al., 2017, arXiv:1707.06168), from the inputs that it has in the narrowed
network, whose earlier layers are fitted by then. A layer that writes into a residual stream also
makes up for the error of the stream's other part, where that is known already.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from edgeres.errors import ModelError
from edgeres.pruning.groups import ChannelGroup
from edgeres.pruning.least_squares import Fit, Layer, LeastSquares
from edgeres.pruning.signals import Batch
from edgeres.pruning.walk import NodeWalk, only_reader

#: A channel whose normalization has less than this share of the median slope makes up for no error
#: of the stream: its weights would have to be too large.
_LEAST_SLOPE = 0.25
_MEMORY_BYTES = 2 << 30
_FEWEST_IMAGES = 32
#: Least share of the wanted variance that is made good.
_LEAST_SHRUNK = 0.05
#: Layers whose weights or statistics are set.
FITTED = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
_SUMS = (torch.add, operator.add, operator.iadd, "add", "add_")


def reconstruct(
    narrow: nn.Module,
    dense: nn.Module,
    groups: Sequence[ChannelGroup],
    kept: Mapping[str, Sequence[int]],
    batches: Sequence[Batch],
    *,
    fitted: Callable[[], None] = lambda: None,
) -> None:
    """Fits a narrowed network to the dense one, layer by layer in the order in which they run.

    Statistics of batch normalization follow, so that what it gives has the dense network's mean and
    spread.

    Args:
        narrow: Changed in place; in evaluation mode afterwards.
        dense: The network that ``narrow`` was cut from; its layers have the same names.
        groups: Channel groups of the dense network.
        kept: Channels of each group that ``narrow`` still has; a group that is not named is whole.
        batches: Images ``(N, C, H, W) float32``; the labels are not looked at. As many are taken as
            fit into 2 GiB together with what both networks make of them, at least 32.
        fitted: Called after each layer.

    Raises:
        ModelError: The network's code cannot be followed, or it runs other nodes when narrowed;
            nothing was changed.
    """
    with torch.no_grad():
        few = _as_many_as_fit(dense, batches)
        fitting = _Fitting(NodeWalk(narrow, few), NodeWalk(dense, few), groups, kept)
        for mine, theirs in fitting.pairs():
            fitting.theirs.step(theirs)
            fitting.fit(mine, theirs)
            fitting.mine.step(mine)
            fitting.mine.forget(mine)
            fitting.theirs.forget(theirs)
            if isinstance(fitting.mine.layer(mine), FITTED):
                fitted()


def _as_many_as_fit(dense: nn.Module, batches: Sequence[Batch]) -> list[Batch]:
    """The first images, so few that all values of two networks fit into the memory."""
    walk = NodeWalk(dense, [(batches[0][0][:1], batches[0][1][:1])])
    most = 1
    for node in walk.nodes:
        walk.step(node)
        most = max(most, walk.held_bytes)
        walk.forget(node)
    left = max(_FEWEST_IMAGES, _MEMORY_BYTES // (2 * most))
    few: list[Batch] = []
    for images, labels in batches:
        few.append((images[:left], labels[:left]))
        left -= len(images)
        if left <= 0:
            break
    return few


class _Fitting:
    """Both networks at the same node."""

    def __init__(
        self,
        mine: NodeWalk,
        theirs: NodeWalk,
        groups: Sequence[ChannelGroup],
        kept: Mapping[str, Sequence[int]],
    ) -> None:
        self.mine = mine
        self.theirs = theirs
        self._device = next(theirs.module.parameters()).device
        self._stay = _kept_outputs(groups, kept, self._device)
        self._fitted: set[fx.Node] = set()

    def pairs(self) -> list[tuple[fx.Node, fx.Node]]:
        """The nodes of both."""
        nodes = [(node.op, str(node.target)) for node in self.mine.nodes]
        if nodes != [(node.op, str(node.target)) for node in self.theirs.nodes]:
            raise ModelError(
                "the narrowed network runs other operations than the dense one.",
                hint="Prune without `reconstruct`.",
            )
        return list(zip(self.mine.nodes, self.theirs.nodes, strict=True))

    def fit(self, node: fx.Node, same: fx.Node) -> None:
        """Fits the layer of a node, if it is one; ``same`` has run, ``node`` has not."""
        layer = self.mine.layer(node)
        if not isinstance(layer, FITTED):
            return
        stay = self._stay.get(str(node.target))
        if stay is None:
            stay = torch.arange(_channels(layer), device=self._device)
        if isinstance(layer, nn.BatchNorm2d):
            if node not in self._fitted:
                dense = self.theirs.values(same.all_input_nodes[0])
                _follow(
                    layer,
                    _norm(self.theirs, same),
                    stay,
                    given=_spread(self.mine.values(node.all_input_nodes[0])),
                    wanted=_spread([value.index_select(1, stay) for value in dense]),
                )
            return
        norms = self._norms_behind(node, same)
        missing = self._stream_error(*(norms or (node, same)), stay)
        slope = torch.ones(len(stay), device=self._device)
        if norms is not None:
            slope = _slope(_norm(self.theirs, norms[1]))[stay]
        squares = LeastSquares(layer)
        inputs = self.mine.values(node.all_input_nodes[0])
        for index, whole in enumerate(self.theirs.values(same)):
            wanted = whole.index_select(1, stay)
            if missing is not None:
                wanted = wanted + _inverse(slope)[:, None, None] * missing[index]
            squares.add(inputs[index], wanted)
        if norms is None:
            _take(layer, squares.solve(centred=layer.bias is not None))
            return
        found = squares.solve(centred=True)
        _take(layer, found)
        if layer.bias is None:
            _follow(
                _norm(self.mine, norms[0]),
                _norm(self.theirs, norms[1]),
                stay,
                given=_Spread(found.mean, found.variance),
                wanted=_Spread(found.wanted_mean, found.wanted_variance),
            )
            self._fitted.add(norms[0])

    def _norms_behind(self, node: fx.Node, same: fx.Node) -> tuple[fx.Node, fx.Node] | None:
        """The batch normalization that alone reads a layer, in both networks."""
        mine, theirs = only_reader(node), only_reader(same)
        if mine is None or theirs is None or not isinstance(self.mine.layer(mine), nn.BatchNorm2d):
            return None
        return mine, theirs

    def _stream_error(
        self, node: fx.Node, same: fx.Node, stay: torch.Tensor
    ) -> list[torch.Tensor] | None:
        """What the other part of the sum behind a node lacks, by batch, if it is known already."""
        total, their_total = only_reader(node), only_reader(same)
        if total is None or their_total is None or total.target not in _SUMS:
            return None
        others = [part for part in total.all_input_nodes if part is not node]
        their_others = [part for part in their_total.all_input_nodes if part is not same]
        if len(others) != 1 or not self.mine.has(others[0]):
            return None
        wholes, parts = self.theirs.values(their_others[0]), self.mine.values(others[0])
        return [w.index_select(1, stay) - p for w, p in zip(wholes, parts, strict=True)]


def _channels(layer: Layer | nn.BatchNorm2d) -> int:
    return layer.num_features if isinstance(layer, nn.BatchNorm2d) else len(layer.weight)


def _kept_outputs(
    groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]], device: torch.device
) -> dict[str, torch.Tensor]:
    """Channels of each dense layer's and normalization's output that stay."""
    stay = {group.name: set(kept[group.name]) for group in groups if group.name in kept}
    return {
        member.layer: torch.tensor(
            [i for i, r in enumerate(member.root) if r in stay[group.name]], device=device
        )
        for group in groups
        if group.name in stay
        for member in group.members
        if member.side in ("out", "both", "norm")
    }


def _norm(walk: NodeWalk, node: fx.Node) -> nn.BatchNorm2d:
    norm = walk.layer(node)
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _slope(norm: nn.BatchNorm2d) -> torch.Tensor:
    deviation = torch.sqrt(_statistics(norm)[1] + norm.eps)
    return (norm.weight if norm.affine else torch.ones_like(deviation)) / deviation


def _inverse(slope: torch.Tensor) -> torch.Tensor:
    able = slope.abs() >= _LEAST_SLOPE * slope.abs().median()
    return torch.where(able, 1 / torch.where(able, slope, 1.0), 0.0)


def _take(layer: Layer, found: Fit) -> None:
    layer.weight.copy_(found.weight)
    if layer.bias is not None:
        layer.bias.copy_(found.wanted_mean - found.mean)


@dataclass(frozen=True)
class _Spread:
    """Mean and variance of each channel, ``(C,) float64``."""

    mean: torch.Tensor
    variance: torch.Tensor


def _spread(values: Sequence[torch.Tensor]) -> _Spread:
    whole = torch.cat([value.transpose(0, 1).flatten(1) for value in values], dim=1).double()
    variance, mean = torch.var_mean(whole, dim=1, correction=0)
    return _Spread(mean, variance)


def _follow(
    mine: nn.BatchNorm2d,
    theirs: nn.BatchNorm2d,
    stay: torch.Tensor,
    *,
    given: _Spread,
    wanted: _Spread,
) -> None:
    """Statistics with which the normalization turns what it is given into what was wanted.

    A least-squares fit gives less variance than it was fitted to; that is made good here.
    """
    mean, variance = (statistic[stay].double() for statistic in _statistics(theirs))
    least = torch.finfo(torch.float32).tiny
    shrunk = (given.variance / wanted.variance.clamp(min=least)).clamp(_LEAST_SHRUNK, 1.0)
    shrunk = torch.where(wanted.variance > least, shrunk, 1.0)  # a constant says nothing
    my_mean, my_variance = _statistics(mine)
    my_variance.copy_(variance * shrunk)
    my_mean.copy_(given.mean - (wanted.mean - mean) * torch.sqrt(shrunk))
