"""From a channel plan to a module, and back from a (pruned) module to its plan."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from edgeres.errors import ModelError
from edgeres.models.plan import ChannelPlan, plan_for
from edgeres.models.pooled import PooledResNet
from edgeres.models.resnet import ResNet

__all__ = ["build_model", "plan_for", "read_plan"]


def build_model(plan: ChannelPlan) -> nn.Module:
    """Builds the network of a plan with random weights, in training mode.

    Raises:
        ModelError: The plan misses a convolution, names one that the architecture does not have,
            or gives widths that do not fit together.
        UsageError: Unknown architecture.
    """
    module: nn.Module = PooledResNet(plan) if plan.spec.family == "pooled" else ResNet(plan)
    convolutions = {n for n, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    unused = sorted(set(plan.widths) - convolutions)
    if unused:
        raise ModelError(
            f"The channel plan names '{unused[0]}', which '{plan.architecture}' does not have.",
            hint="The plan belongs to another architecture.",
        )
    return module


def read_plan(module: nn.Module, plan: ChannelPlan) -> ChannelPlan:
    """The plan of a module whose convolutions were narrowed in place, e.g. by pruning.

    Args:
        module: A network that was built from ``plan``.
        plan: The plan before the change: gives architecture, classes and input channels.

    Raises:
        ModelError: The module has other convolutions than the plan.
    """
    widths: dict[str, int] = {}
    groups: dict[str, int] = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            widths[name] = part.out_channels
            if part.groups > 1:
                groups[name] = part.groups
    if set(widths) != set(plan.widths):
        odd = sorted(set(widths) ^ set(plan.widths))
        raise ModelError(
            f"The module and the plan of '{plan.architecture}' differ in '{odd[0]}'.",
            hint="Pass the plan that the module was built from.",
        )
    return replace(plan, widths=widths, groups=groups)
