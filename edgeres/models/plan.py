"""The channel plan: everything needed to rebuild a network's shape, as plain JSON.

A plan names an architecture and gives the output width of every convolution, so a pruned network
is rebuilt from its plan alone and its weights can be stored without pickling code. This module
imports no torch: a recipe, a report or the store can read a plan cheaply.

Parameter names follow torchvision for the ImageNet networks, and timm for the two variants that
torchvision does not have: ResNet-D (He et al., 2018, arXiv:1812.01187) and squeeze-and-excitation
(Hu et al., 2017, arXiv:1709.01507).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeres.errors import ModelError, UsageError
from edgeres.models.variant import Variant
from edgeres.system.foreign_json import parse_json

PLAN_SCHEMA = 1
WIDTH_STEP = 8  # scaled widths are multiples of this: SIMD lanes and INT8 kernels want it
SE_REDUCTION = 16


@dataclass(frozen=True)
class Architecture:
    """The fixed choices of one named network; widths are not among them.

    Attributes:
        family: ``cifar`` (3x3 stem, 3 stages), ``imagenet`` (7x7 stem, 4 stages), ``pooled``, or
            ``line``: over time alone, ``(C, T)``, with windows of 9 in the blocks, as the temporal
            networks for keywords have them (Choi et al., arXiv:1904.03814).
        block: ``basic`` (two 3x3), ``bottleneck`` (1x1, 3x3, 1x1) or ``pooled``.
        depths: Blocks in each stage.
        groups: Groups of the 3x3 convolution in a bottleneck (ResNeXt cardinality).
        base_width: Width of the 3x3 convolution per group at 64 planes (64 is plain ResNet).
        deep_stem: Three 3x3 convolutions instead of the 7x7 (ResNet-D).
        average_down: Average pooling before an unstrided projection (ResNet-D).
        squeeze: Squeeze-and-excitation on the residual branch.
    """

    family: Literal["cifar", "imagenet", "pooled", "line"]
    block: Literal["basic", "bottleneck", "pooled"]
    depths: tuple[int, ...]
    groups: int = 1
    base_width: int = 64
    deep_stem: bool = False
    average_down: bool = False
    squeeze: bool = False

    @property
    def over_lines(self) -> bool:
        """Whether samples are lines ``(C, T)``, not images ``(C, H, W)``."""
        return self.family == "line"

    @property
    def expansion(self) -> int:
        """Output width of a block over its planes."""
        return 4 if self.block == "bottleneck" else 1

    @property
    def convolutions(self) -> int:
        """Main-path convolutions in one block."""
        return 3 if self.block == "bottleneck" else 2

    def stride(self, stage: int, block: int) -> int:
        """Published stride of a block, both counted from 0; pooled blocks pool inside, return 1."""
        return 2 if block == 0 and stage > 0 and self.family != "pooled" else 1


def _architectures() -> dict[str, Architecture]:
    """Every architecture that edgeres knows, by name."""
    architectures = {
        f"resnet{6 * n + 2}": Architecture("cifar", "basic", (n, n, n)) for n in (1, 3, 5, 7, 9, 18)
    }
    depths = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
    for depth, stages in depths.items():
        block: Literal["basic", "bottleneck"] = "basic" if depth < 50 else "bottleneck"
        architectures[f"resnet{depth}"] = Architecture("imagenet", block, stages)
        architectures[f"resnet{depth}d"] = Architecture(
            "imagenet", block, stages, deep_stem=True, average_down=True
        )
        architectures[f"seresnet{depth}"] = Architecture("imagenet", block, stages, squeeze=True)
    for name, depth, groups, base_width in (
        ("resnext50_32x4d", 50, 32, 4),
        ("resnext101_32x8d", 101, 32, 8),
        ("resnext101_64x4d", 101, 64, 4),
        ("wide_resnet50_2", 50, 1, 128),
        ("wide_resnet101_2", 101, 1, 128),
    ):
        architectures[name] = Architecture(
            "imagenet", "bottleneck", depths[depth], groups=groups, base_width=base_width
        )
    architectures["line_resnet8"] = Architecture("line", "basic", (1, 1, 1))
    architectures["pooled_resnet"] = Architecture("pooled", "pooled", (1, 1, 1))
    return architectures


ARCHITECTURES: Mapping[str, Architecture] = _architectures()


@dataclass(frozen=True)
class ChannelPlan:
    """Architecture, arguments and the width of every convolution.

    Attributes:
        architecture: A key of :data:`ARCHITECTURES`.
        num_classes: Outputs of the classifier.
        in_channels: 1 (grey) or 3; any number of a network over lines.
        widths: Output channels by convolution name, e.g. ``layer1.0.conv2``. A projection shortcut
            exists exactly where its convolution has an entry.
        groups: Groups of the grouped convolutions; one that is not named has 1.
        variant: Choices that the weights' names and shapes do not show.
        assumed: Whether nobody said so and these choices are a guess; two plans that differ in
            nothing else are equal.
    """

    architecture: str
    num_classes: int
    in_channels: int
    widths: Mapping[str, int]
    groups: Mapping[str, int] = field(default_factory=dict)
    variant: Variant = field(default_factory=Variant)
    assumed: bool = field(default=False, compare=False)

    @property
    def spec(self) -> Architecture:
        """The architecture's fixed choices."""
        return architecture(self.architecture)

    def sample_shape(self, height: int, width: int) -> tuple[int, ...]:
        """``(C, H, W)`` of an image of this size; ``(C, T)`` of a line, which has no height."""
        size = (width,) if self.spec.over_lines else (height, width)
        return (self.in_channels, *size)

    def to_json(self) -> str:
        """One line of JSON with sorted keys: the same plan gives the same bytes."""
        content: dict[str, Any] = {
            "schema": PLAN_SCHEMA,
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "widths": dict(self.widths),
            "groups": dict(self.groups),
        }
        if self.variant != Variant():
            content["variant"] = self.variant.to_dict()
        if self.assumed:
            content["assumed"] = True
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> ChannelPlan:
        """Reads what :meth:`to_json` wrote.

        Raises:
            ModelError: Not JSON, another schema, a missing key, or a width that is no positive
                integer.
        """
        hint = "Save the checkpoint again with this version of edgeres."
        try:
            content = parse_json(text)
        except ValueError as error:
            raise ModelError(f"The channel plan is not JSON: {error}.", hint=hint) from error
        if not isinstance(content, dict) or content.get("schema") != PLAN_SCHEMA:
            schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise ModelError(
                f"Expected a channel plan of schema {PLAN_SCHEMA}, got {schema}.", hint=hint
            )
        expected = {"schema", "architecture", "num_classes", "in_channels", "widths", "groups"}
        if set(content) - {"variant", "assumed"} != expected:
            raise ModelError(
                f"Expected the plan keys {sorted(expected)}, got {sorted(content)}.", hint=hint
            )
        if not isinstance(content["architecture"], str):
            raise ModelError("The plan's architecture is not a string.", hint=hint)
        architecture(content["architecture"], error=ModelError)
        variant, assumed = content.get("variant", {}), content.get("assumed", False)
        if not isinstance(variant, dict) or not isinstance(assumed, bool):
            raise ModelError("The plan's variant or assumption has another type.", hint=hint)
        return ChannelPlan(
            architecture=content["architecture"],
            num_classes=_positive("num_classes", content["num_classes"]),
            in_channels=_positive("in_channels", content["in_channels"]),
            widths=_positive_map("widths", content["widths"]),
            groups=_positive_map("groups", content["groups"]),
            variant=Variant.from_dict(variant),
            assumed=assumed,
        )


def architecture(
    name: str, *, error: type[UsageError] | type[ModelError] = UsageError
) -> Architecture:
    """Looks an architecture up by name.

    Raises:
        UsageError: No such architecture (or the ``error`` asked for).
    """
    if name not in ARCHITECTURES:
        raise error(
            f"Unknown architecture '{name}'.",
            hint=f"Known ones: {', '.join(sorted(ARCHITECTURES))}.",
        )
    return ARCHITECTURES[name]


def plan_for(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    width_multiplier: float = 1.0,
) -> ChannelPlan:
    """The plan of an unpruned network.

    Args:
        name: A key of :data:`ARCHITECTURES`.
        num_classes: Outputs of the classifier.
        in_channels: 1 (grey) or 3; any number for a network over lines.
        width_multiplier: Scales every width; scaled widths are rounded to multiples of 8 (of the
            group count too, where there is one). 1.0 leaves the published widths alone.

    Raises:
        UsageError: Unknown name, or an argument out of range.
    """
    spec = architecture(name)
    if in_channels not in (1, 3) and not (spec.over_lines and in_channels > 0):
        raise UsageError(f"Expected 1 or 3 input channels, got {in_channels}.")
    if num_classes < 1:
        raise UsageError(f"Expected at least one class, got {num_classes}.")
    if not 0.0 < width_multiplier <= 16.0:
        raise UsageError(f"Expected a width multiplier in (0, 16], got {width_multiplier}.")
    first = {"cifar": 16, "imagenet": 64, "pooled": 32, "line": 16}[spec.family]
    stem = _scaled(first, width_multiplier)
    widths: dict[str, int] = {}
    groups: dict[str, int] = {}
    if spec.deep_stem:
        half = _scaled(first // 2, width_multiplier)
        widths |= {"conv1.0": half, "conv1.3": half, "conv1.6": stem}
    else:
        widths["conv1"] = stem
    before = first  # unscaled: scaling must not change which shortcuts are projected
    for stage, depth in enumerate(spec.depths):
        planes = first * 2**stage
        out = _scaled(planes * spec.expansion, width_multiplier)
        inner = _scaled(
            int(planes * spec.base_width / 64) * spec.groups, width_multiplier, step=spec.groups
        )
        for block in range(depth):
            prefix = f"layer{stage + 1}.{block}"
            if spec.block == "bottleneck":
                widths |= {f"{prefix}.conv1": inner, f"{prefix}.conv2": inner}
                if spec.groups > 1:
                    groups[f"{prefix}.conv2"] = spec.groups
            else:
                widths[f"{prefix}.conv1"] = out
            widths[f"{prefix}.conv{spec.convolutions}"] = out
            if spec.squeeze:
                widths[f"{prefix}.se.fc1"] = _scaled(out // SE_REDUCTION, 1.0, round_up=True)
                widths[f"{prefix}.se.fc2"] = out
            changed = before != planes * spec.expansion or spec.stride(stage, block) != 1
            if changed or spec.block == "pooled":
                widths[projection_name(spec, prefix)] = out
            before = planes * spec.expansion
    return ChannelPlan(name, num_classes, in_channels, widths, groups)


def projection_name(spec: Architecture, prefix: str) -> str:
    """Name of the projection convolution of the block at ``prefix``."""
    return f"{prefix}.downsample.{1 if spec.average_down else 0}"


def _scaled(width: int, multiplier: float, *, step: int = 1, round_up: bool = False) -> int:
    """Scales a width to the nearest multiple of 8 (and of ``step``), never below one step."""
    if multiplier == 1.0 and not round_up:
        return width
    unit = WIDTH_STEP if WIDTH_STEP % step == 0 else step
    scaled = max(unit, int(width * multiplier / unit + 0.5) * unit)
    # As in MobileNet's rule: rounding may not take more than a tenth of the channels away.
    return scaled if scaled >= 0.9 * width * multiplier else scaled + unit


def _positive(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(
            f"Expected a positive integer for '{name}' in the channel plan, got {value!r}.",
            hint="The checkpoint's plan is damaged; export the checkpoint again.",
        )
    return value


def _positive_map(name: str, value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        raise ModelError(
            f"Expected an object for '{name}' in the channel plan, got {type(value).__name__}.",
            hint="The checkpoint's plan is damaged; export the checkpoint again.",
        )
    return {str(key): _positive(f"{name}.{key}", entry) for key, entry in value.items()}
