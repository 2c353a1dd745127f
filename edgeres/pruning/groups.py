"""Which channels live and die together: the groups of a network, and their removal.

torch-pruning's dependency graph (Fang et al., 2023, arXiv:2301.12900) finds, for each convolution,
every tensor that shrinks with its output channels: through residual sums a whole stage's stream is
one group. This module turns its answer into plain data and adds what it lacks: convolutions with
groups (ResNeXt) lose whole convolution groups, so that each remaining one keeps its width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from typing import Any, Literal

import torch
import torch_pruning
from torch import nn

from edgeres.errors import ModelError
from edgeres.pruning.prunable import check_prunable

Side = Literal["out", "in", "both", "norm"]


@dataclass(frozen=True)
class Member:
    """One tensor dimension that shrinks with its group.

    Attributes:
        layer: Name of the convolution, linear layer or batch normalization.
        side: Its outputs, its inputs, both at once (a grouped convolution), or a normalization.
        root: Channel of the group for each index along that dimension.
        source: For a normalization, the convolution right before it, if there is one.
    """

    layer: str
    side: Side
    root: tuple[int, ...]
    source: str = ""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together.

    Attributes:
        name: The first convolution, in module order, that writes these channels.
        channels: How many there are.
        unit: Neighbouring channels that must stay or go together; 1 without grouped convolutions.
        members: Every tensor dimension that shrinks.
    """

    name: str
    channels: int
    unit: int
    members: tuple[Member, ...]

    def layers(self, side: Side) -> tuple[str, ...]:
        """Names of the members with this side."""
        return tuple(member.layer for member in self.members if member.side == side)


class ChannelGraph:
    """The groups of one module, which it narrows in place.

    Args:
        module: The network; belongs to the graph from now on, in evaluation mode.
        shape: One image, ``(C, H, W)``.

    Raises:
        ModelError: An operation, a layer or shared weights that cannot be pruned, by name.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, int, int]) -> None:
        # Weights that lie channels last show as an operation that moves values.
        for parameter in module.parameters():
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
        self.module = module.eval().requires_grad_(True)
        self.sample = torch.zeros((2, *shape), device=next(module.parameters()).device)
        with torch.enable_grad():
            self._outputs = check_prunable(self.module, self.sample)
        self._names = {part: name for name, part in module.named_modules()}
        with _whole_group_convolutions(module):
            self._graph = self._trace()
            self.groups = tuple(self._find_groups())

    def remove(self, removed: Mapping[str, Sequence[int]]) -> None:
        """Takes channels out of the module.

        Args:
            removed: Channels by group name. Whole units, never a whole group.

        """
        with _whole_group_convolutions(self.module):
            for name, channels in removed.items():
                if channels:
                    root = self.module.get_submodule(name)
                    pruner = self._graph.get_pruner_of_module(root)
                    group = self._graph.get_pruning_group(
                        root, pruner.prune_out_channels, sorted(channels)
                    )
                    group.prune(record_history=False)

    def _trace(self) -> Any:
        graph = torch_pruning.DependencyGraph()
        with torch.enable_grad():
            # A tuple: a bare tensor would be unpacked along the batch and run twice.
            return graph.build_dependency(
                self.module,
                (self.sample,),
                verbose=False,
                customized_pruners={_WholeGroupConv2d: _WholeGroupPruner()},
            )

    def _find_groups(self) -> Iterator[ChannelGroup]:
        seen: set[str] = set()
        for name, part in self.module.named_modules():
            if not isinstance(part, nn.Conv2d | nn.Linear) or name in seen:
                continue
            if part not in self._graph.module2node:
                continue  # a layer that does not run
            pruner = self._graph.get_pruner_of_module(part)
            group = self._graph.get_pruning_group(
                part, pruner.prune_out_channels, list(range(pruner.get_out_channels(part)))
            )
            members = tuple(self._members(group))
            seen.update(member.layer for member in members if member.side in ("out", "both"))
            if any(self._is_output(item.dep) for item in group):
                continue
            if any(m.layer in self._outputs and m.side != "in" for m in members):
                continue
            channels = pruner.get_out_channels(part)
            unit = lcm(1, *(self._unit(member) for member in members))
            yield ChannelGroup(name, channels, unit, members)

    def _members(self, group: Any) -> Iterator[Member]:
        for item in group:
            layer = item.dep.target.module
            side = self._side(item.dep)
            if side is not None:
                source = ""
                if side == "norm":
                    before = item.dep.target.inputs[0].module
                    source = self._names.get(before, "")
                root = dict(zip(item.idxs, item.root_idxs, strict=True))
                yield Member(self._names[layer], side, tuple(root[i] for i in sorted(root)), source)

    def _side(self, dependency: Any) -> Side | None:
        layer = dependency.target.module
        if isinstance(layer, nn.BatchNorm2d):
            return "norm"
        if isinstance(layer, _WholeGroupConv2d):
            return "both"
        if isinstance(layer, nn.Conv2d | nn.Linear):
            pruner = self._graph.get_pruner_of_module(layer)
            return "out" if dependency.handler == pruner.prune_out_channels else "in"
        return None

    def _unit(self, member: Member) -> int:
        layer = self.module.get_submodule(member.layer)
        if not isinstance(layer, _WholeGroupConv2d):
            return 1
        if layer.in_channels != layer.out_channels:
            raise ModelError(
                f"Layer '{member.layer}' has {layer.groups} groups and turns "
                f"{layer.in_channels} channels into {layer.out_channels}.",
                hint="Grouped convolutions are pruned where they keep the channel count.",
            )
        return layer.out_channels // layer.groups

    def _is_output(self, dependency: Any) -> bool:
        """Whether these channels are the network's outputs, which stay."""
        node = dependency.target
        last_layer = not node.outputs and self._side(dependency) in ("out", "both")
        return last_layer or bool(node.type == self._graph.ops.OPTYPE.OUTPUT)


class _WholeGroupConv2d(nn.Conv2d):
    """Marks a grouped convolution while the graph handles it; computes the same."""


@contextmanager
def _whole_group_convolutions(module: nn.Module) -> Iterator[None]:
    """torch-pruning chooses by class, so grouped convolutions change theirs for a while."""
    grouped = [p for p in module.modules() if isinstance(p, nn.Conv2d) and p.groups > 1]
    classes = [type(part) for part in grouped]
    for part in grouped:
        part.__class__ = _WholeGroupConv2d
    try:
        yield
    finally:
        for part, kind in zip(grouped, classes, strict=True):
            part.__class__ = kind


class _WholeGroupPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """Removes whole convolution groups: inputs and outputs with the same indices."""

    def prune_out_channels(self, layer: nn.Conv2d, idxs: Sequence[int]) -> nn.Module:
        width = layer.out_channels // layer.groups
        removed = set(idxs)
        kept = [i for i in range(layer.out_channels) if i not in removed]
        layer.groups = len(kept) // width
        layer.in_channels = layer.out_channels = len(kept)
        layer.weight = self._prune_parameter_and_grad(layer.weight, kept, 0)
        if layer.bias is not None:
            layer.bias = self._prune_parameter_and_grad(layer.bias, kept, 0)
        return layer

    # One function for both sides tells the graph that they are coupled.
    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.Conv2d) -> int:
        return layer.out_channels

    get_in_channels = get_out_channels
