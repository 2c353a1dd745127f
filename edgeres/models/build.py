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
            gives widths that do not fit together, or a variant that its architecture has not.
        UsageError: Unknown architecture.
    """
    _check_variant(plan)
    module: nn.Module = PooledResNet(plan) if plan.spec.family == "pooled" else ResNet(plan)
    convolutions = {n for n, part in module.named_modules() if isinstance(part, nn.Conv2d)}
    unused = sorted(set(plan.widths) - convolutions)
    if unused:
        raise ModelError(
            f"The channel plan names '{unused[0]}', which '{plan.architecture}' does not have.",
            hint="The plan belongs to another architecture.",
        )
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = plan.variant.norm_epsilon
    return module


def _check_variant(plan: ChannelPlan) -> None:
    """Refuses choices that are not built: what is published of them differs between libraries."""
    variant, spec = plan.variant, plan.spec
    choices = set(variant.to_dict()) - {"norm_epsilon"}
    wrong = ""
    if choices and spec.family != "imagenet":
        wrong = f"{min(choices).replace('_', ' ')} is not a choice"
    elif variant.stride_on == "1x1" and spec.block == "basic":
        wrong = "its blocks have no 1x1 convolution to step on"
    elif variant.stride_on == "1x1" and variant.antialias != "none":
        wrong = "anti-aliased blocks do not step on a 1x1 convolution"
    elif variant.output_stride < 32 and spec.average_down:
        wrong = "shortcuts that are pooled are not dilated"
    elif variant.output_stride < 32 and variant.first_stage_stride != 1:
        wrong = "a strided first stage and dilation do not go together"
    if wrong:
        raise ModelError(
            f"A '{plan.architecture}' of this kind ({variant}) cannot be built: {wrong}.",
            hint="Export the network to ONNX with the library that it comes from, or give the code "
            "that makes it: --model mymodel.py:build --weights FILE.",
        )


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
