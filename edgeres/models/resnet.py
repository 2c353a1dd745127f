"""Residual networks for small and large images and for lines, one definition for all of them.

He et al., 2015 (arXiv:1512.03385), with the stride of a bottleneck on its 3x3 convolution
("v1.5", as torchvision has it) and 1x1 projection shortcuts wherever the shape changes. Every
width comes from the :class:`~edgeres.models.plan.ChannelPlan`, so a pruned network is this same
code with another plan; so are the relatives that a :class:`~edgeres.models.variant.Variant` tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from edgeres.errors import ModelError
from edgeres.models.plan import Architecture, ChannelPlan, projection_name


@dataclass(frozen=True)
class Step:
    """How a block moves over the image.

    Attributes:
        stride: Of the block.
        first: Dilation of its strided 3x3 convolution.
        then: Dilation of a basic block's second one.
    """

    stride: int = 1
    first: int = 1
    then: int = 1


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means (arXiv:1709.01507)."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(reduced, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(N, C, H, W) float32`` to the same shape."""
        gate: torch.Tensor = self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))
        return x * gate


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, plan: ChannelPlan, prefix: str, in_width: int, step: Step) -> None:
        super().__init__()
        middle, out = width(plan, f"{prefix}.conv1"), width(plan, f"{prefix}.conv2")
        self.shrink = _shrink(plan, step)
        stride = 1 if self.shrink is not None else step.stride
        self.conv1 = _window(plan, in_width, middle, stride, step.first)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = _window(plan, middle, out, 1, step.then)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.se = _squeeze(plan, prefix, out)
        self.downsample = _projection(plan, prefix, in_width, out, step.stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(N, C, H, W) float32`` to ``(N, C', H/stride, W/stride)``."""
        y = self.relu(self.bn1(self.conv1(x)))
        if self.shrink is not None:
            y = self.shrink(y)
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        result: torch.Tensor = self.relu(y + shortcut)
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, perhaps grouped) and 1x1 convolutions and a shortcut."""

    def __init__(self, plan: ChannelPlan, prefix: str, in_width: int, step: Step) -> None:
        super().__init__()
        first, second, out = (width(plan, f"{prefix}.conv{i}") for i in (1, 2, 3))
        groups = plan.groups.get(f"{prefix}.conv2", 1)
        if first % groups or second % groups:
            raise ModelError(
                f"Layer {prefix}.conv2 has {groups} groups, but widths {first} and {second}.",
                hint="Both widths must be multiples of the group count.",
            )
        self.shrink = _shrink(plan, step)
        early = plan.variant.stride_on == "1x1"
        late = 1 if early or self.shrink is not None else step.stride
        self.conv1 = nn.Conv2d(in_width, first, 1, step.stride if early else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(
            first, second, 3, late, step.first, step.first, groups=groups, bias=False
        )
        self.bn2 = nn.BatchNorm2d(second)
        self.conv3 = nn.Conv2d(second, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.se = _squeeze(plan, prefix, out)
        self.downsample = _projection(plan, prefix, in_width, out, step.stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``(N, C, H, W) float32`` to ``(N, C', H/stride, W/stride)``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        if self.shrink is not None:
            y = self.shrink(y)
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        shortcut = x if self.downsample is None else self.downsample(x)
        result: torch.Tensor = self.relu(y + shortcut)
        return result


class ResNet(nn.Module):
    """A residual network built from its channel plan; weights are random until loaded."""

    def __init__(self, plan: ChannelPlan) -> None:
        super().__init__()
        spec = plan.spec
        self.plan = plan
        self.takes_lines = False
        self.conv1, stream = _stem(plan)
        self.bn1 = nn.BatchNorm2d(stream)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pool(plan)
        self.stages = len(spec.depths)
        block_type = BasicBlock if spec.block == "basic" else Bottleneck
        moves = plan.variant.stages(self.stages) if spec.family == "imagenet" else ()
        for stage, depth in enumerate(spec.depths):
            blocks = []
            for index in range(depth):
                prefix = f"layer{stage + 1}.{index}"
                step = Step(spec.stride(stage, index))
                if moves:
                    stride, before, dilation = moves[stage]
                    step = Step(
                        stride if index == 0 else 1, before if index == 0 else dilation, dilation
                    )
                blocks.append(block_type(plan, prefix, stream, step))
                stream = width(plan, f"{prefix}.conv{spec.convolutions}")
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(stream, plan.num_classes)
        initialize(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images ``(N, in_channels, H, W) float32`` to logits ``(N, num_classes)``.

        A network over lines takes images of one row, and lines ``(N, in_channels, T)`` once it
        :attr:`takes_lines`.
        """
        if self.takes_lines:
            x = x.unsqueeze(2)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in self.layers():
            x = layer(x)
        logits: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits

    def layers(self) -> Iterator[nn.Module]:
        """The stages in order."""
        for stage in range(self.stages):
            yield self.get_submodule(f"layer{stage + 1}")


def with_lines(module: nn.Module) -> nn.Module:
    """The same network as engines have it: one over lines takes lines, not images of one row."""
    if isinstance(module, ResNet):
        module.takes_lines = module.plan.spec.over_lines
    return module


def width(plan: ChannelPlan, name: str) -> int:
    """Output width of a convolution.

    Raises:
        ModelError: The plan does not name it.
    """
    if name not in plan.widths:
        raise ModelError(
            f"The channel plan of '{plan.architecture}' has no width for '{name}'.",
            hint="A plan names every convolution; make it with plan_for() or read_plan().",
        )
    return plan.widths[name]


def initialize(module: nn.Module) -> None:
    """Random weights: He et al., 2015 (arXiv:1502.01852), fan-out, for the ReLU."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _window(plan: ChannelPlan, in_width: int, out: int, stride: int, dilation: int) -> nn.Conv2d:
    """The 3x3 convolution of a basic block; over lines, one of 9 moments."""
    if plan.spec.over_lines:
        return nn.Conv2d(in_width, out, (1, 9), stride, (0, 4), bias=False)
    return nn.Conv2d(in_width, out, 3, stride, dilation, dilation, bias=False)


def _stem(plan: ChannelPlan) -> tuple[nn.Module, int]:
    spec = plan.spec
    if not spec.deep_stem:
        out = width(plan, "conv1")
        if spec.over_lines:
            return nn.Conv2d(plan.in_channels, out, (1, 3), 1, (0, 1), bias=False), out
        if spec.family == "cifar":
            return nn.Conv2d(plan.in_channels, out, 3, 1, 1, bias=False), out
        stride = plan.variant.stem_stride
        return nn.Conv2d(plan.in_channels, out, 7, stride, 3, bias=False), out
    first, second, out = (width(plan, f"conv1.{i}") for i in (0, 3, 6))
    stem = nn.Sequential(
        nn.Conv2d(plan.in_channels, first, 3, plan.variant.stem_stride, 1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        nn.Conv2d(first, second, 3, 1, 1, bias=False),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        nn.Conv2d(second, out, 3, 1, 1, bias=False),
    )
    return stem, out


def _stem_pool(plan: ChannelPlan) -> nn.Module:
    variant = plan.variant
    if plan.spec.family != "imagenet" or variant.stem_pool == "none":
        return nn.Identity()
    return nn.AvgPool2d(2) if variant.antialias == "average" else nn.MaxPool2d(3, 2, 1)


def _shrink(plan: ChannelPlan, step: Step) -> nn.Module | None:
    """The average pooling that takes a stride's place in an anti-aliased block."""
    pools = plan.variant.antialias == "average" and step.stride > 1
    return nn.AvgPool2d(step.stride) if pools else None


def _squeeze(plan: ChannelPlan, prefix: str, out: int) -> SqueezeExcite | None:
    if not plan.spec.squeeze:
        return None
    _same(plan, f"{prefix}.se.fc2", out)
    return SqueezeExcite(out, width(plan, f"{prefix}.se.fc1"))


def _projection(
    plan: ChannelPlan, prefix: str, in_width: int, out: int, stride: int
) -> nn.Sequential | None:
    spec: Architecture = plan.spec
    name = projection_name(spec, prefix)
    if name not in plan.widths:
        if in_width != out or stride != 1:
            raise ModelError(
                f"Block {prefix} turns {in_width} channels into {out} at stride {stride}, "
                f"but the plan has no '{name}'.",
                hint="Blocks whose shortcut changes shape need a projection in the plan.",
            )
        return None
    _same(plan, name, out)
    if not spec.average_down:
        return nn.Sequential(nn.Conv2d(in_width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    pool = (
        nn.Identity()
        if stride == 1
        else nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    )
    return nn.Sequential(pool, nn.Conv2d(in_width, out, 1, bias=False), nn.BatchNorm2d(out))


def _same(plan: ChannelPlan, name: str, out: int) -> None:
    if width(plan, name) != out:
        raise ModelError(
            f"The plan gives '{name}' {plan.widths[name]} channels where {out} are added to it.",
            hint="Convolutions that meet in a residual sum must have one width.",
        )
