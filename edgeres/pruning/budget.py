"""What a choice of widths costs, without building the pruned network.

Every convolution's cost is the product of its input and output widths, so the multiply-adds of any
choice follow from one count on the full network and from the groups its two sides belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgeres.pruning.groups import ChannelGroup

Widths = Mapping[str, int]
Cost = Callable[[Widths], float]
"""Cost of a network whose groups have these widths: multiply-adds, or one day milliseconds."""


class MacsCost:
    """Multiply-adds as a function of the groups' widths.

    Args:
        groups: Of a network.
        macs: Of that network, by layer; see :func:`edgeres.models.cost.layer_macs`.
    """

    def __init__(self, groups: Sequence[ChannelGroup], macs: Mapping[str, int]) -> None:
        self._groups = tuple(groups)
        self._layers = dict(macs)
        self._macs = np.array(list(macs.values()), dtype=np.float64)
        place = {name: i for i, name in enumerate(macs)}
        # The last entry is a group that never narrows: image channels and classes.
        self._inputs = np.full(len(macs), len(groups))
        self._outputs = np.full(len(macs), len(groups))
        for index, group in enumerate(groups):
            for layer in group.layers("in"):
                self._inputs[place[layer]] = index
            # A convolution that loses whole groups has cost proportional to its width, once.
            for layer in (*group.layers("out"), *group.layers("both")):
                self._outputs[place[layer]] = index

    @property
    def total(self) -> int:
        """Multiply-adds of the full network."""
        return sum(self._layers.values())

    def __call__(self, widths: Widths) -> float:
        """Multiply-adds where the groups have these widths; one not named keeps its own."""
        shares = np.ones(len(self._groups) + 1)
        for index, group in enumerate(self._groups):
            shares[index] = widths.get(group.name, group.channels) / group.channels
        return float(self._macs @ (shares[self._inputs] * shares[self._outputs]))

    def share_of(self, group: ChannelGroup) -> float:
        """Share of the network's multiply-adds in layers that touch the group, in [0, 1]."""
        layers = {member.layer for member in group.members}
        return sum(macs for layer, macs in self._layers.items() if layer in layers) / self.total
