"""Which network a state dict belongs to, read from its names and shapes alone.

The result is a :class:`ChannelPlan` with the widths that the weights really have, so a pruned or
widened network is recognized like a published one. No torch is imported: shapes are tuples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeres.errors import ModelError
from edgeres.models.plan import (
    ARCHITECTURES,
    Architecture,
    ChannelPlan,
    plan_for,
    projection_name,
)
from edgeres.models.statements import Claim

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = re.compile(r"^layer(\d+)\.(\d+)\.")


@dataclass(frozen=True)
class _Traits:
    """What the names tell about a network, whatever its widths."""

    stem_kernel: int
    over_lines: bool
    deep_stem: bool
    depths: tuple[int, ...]
    bottleneck: bool
    squeeze: bool
    average_down: bool
    projected: bool

    def fits(self, spec: Architecture) -> bool:
        """Whether a network of this architecture has these traits."""
        return (
            self.stem_kernel == (7 if spec.family == "imagenet" and not spec.deep_stem else 3)
            and self.over_lines == spec.over_lines
            and self.deep_stem == spec.deep_stem
            and self.depths == spec.depths
            and self.bottleneck == (spec.block == "bottleneck")
            and self.squeeze == spec.squeeze
            and self.average_down == spec.average_down
            and self.projected == (spec.family == "pooled")
        )

    def __str__(self) -> str:
        rows = 1 if self.over_lines else self.stem_kernel
        parts = [
            "deep stem" if self.deep_stem else f"{rows}x{self.stem_kernel} stem",
            f"{'bottleneck' if self.bottleneck else 'basic'} blocks {list(self.depths)}",
        ]
        if self.squeeze:
            parts.append("squeeze-and-excitation")
        if self.average_down:
            parts.append("average-pooled shortcuts")
        return ", ".join(parts)


def infer_plan(
    shapes: Shapes,
    *,
    source: str,
    architecture_name: str | None = None,
    num_classes: int | None = None,
    claim: Claim | None = None,
) -> ChannelPlan:
    """Infers architecture, classes, input channels, widths and groups.

    Args:
        shapes: Parameter shapes by canonical name (see :mod:`edgeres.models.names`).
        source: File name for messages.
        architecture_name: Believed where given, so that missing parameters can be told later;
            otherwise found from stem, depths and block kind. Where only widths tell two networks
            apart (``resnet50`` and ``wide_resnet50_2``), the nearer one is taken.
        num_classes: Checked against the classifier's rows where given.
        claim: What is said of the network by the checkpoint or the files beside it.

    Raises:
        ModelError: No stem, no classifier, no known network of this shape, another class count, or
            a claim that the weights contradict.
        UsageError: ``architecture_name`` is not known.
    """
    stem = shapes.get("conv1.weight", shapes.get("conv1.0.weight", ()))
    if len(stem) != 4:
        raise ModelError(
            f"Expected a stem convolution 'conv1.weight' in {source}, got keys like "
            f"{', '.join(list(shapes)[:10]) or 'none'}.",
            hint="They are of another network, or carry names this version does not know; give the "
            "code that makes it: --model mymodel.py:build --weights FILE.",
        )
    classes = _classes(shapes, source, num_classes)
    in_channels = stem[1]
    if in_channels not in (1, 3) and not _is_over_lines(stem):
        raise ModelError(
            f"The stem in {source} takes {in_channels} input channels.",
            hint="edgeres' own networks take grey (1) or colour (3) images; give the code that "
            "makes this one: --model mymodel.py:build --weights FILE.",
        )
    traits = _traits(shapes, stem)
    if claim is not None:
        _check_claim(claim, traits, classes, in_channels, source, architecture_name)
        plan = _plan(shapes, traits, architecture_name or claim.architecture, classes, source)
        return _as_claimed(plan, claim, shapes)
    return _plan(shapes, traits, architecture_name, classes, source)


def _plan(
    shapes: Shapes, traits: _Traits, architecture_name: str | None, classes: int, source: str
) -> ChannelPlan:
    in_channels = shapes.get("conv1.weight", shapes.get("conv1.0.weight", (0, 0)))[1]
    if architecture_name is not None:
        published = plan_for(architecture_name, num_classes=classes, in_channels=in_channels)
        # Of another network, or incomplete: against the published widths the difference shows.
        return _with_found_widths(published, shapes) if traits.fits(published.spec) else published
    candidates = [name for name, spec in ARCHITECTURES.items() if traits.fits(spec)]
    if not candidates:
        raise ModelError(
            f"No known architecture has what {source} holds: {traits}.",
            hint="Name the architecture to see which parameters differ, or give the code that "
            "makes the network: --model mymodel.py:build --weights FILE. "
            f"Known ones: {', '.join(sorted(ARCHITECTURES))}.",
        )
    nominal = [plan_for(name, num_classes=classes, in_channels=in_channels) for name in candidates]
    return _with_found_widths(min(nominal, key=lambda plan: _distance(plan, shapes)), shapes)


def _check_claim(
    claim: Claim, traits: _Traits, classes: int, in_channels: int, source: str, named: str | None
) -> None:
    """Refuses what is said of a network and is not so.

    Raises:
        ModelError: Saying what is said where, and what the weights have.
    """
    if claim.architecture is not None:
        if named is not None and named != claim.architecture:
            raise ModelError(
                f"'{named}' was asked for, {claim.where} says '{claim.architecture}'.",
                hint="Leave the architecture out, or bring the weights that belong to it.",
            )
        if not traits.fits(ARCHITECTURES[claim.architecture]):
            raise ModelError(
                f"{claim.where} says '{claim.architecture}', but {source} holds another network: "
                f"{traits}.",
                hint="Bring the weights and the description that belong together.",
            )
    facts = {
        "num_classes": classes,
        "in_channels": in_channels,
        "depths": list(traits.depths),
        "block": "bottleneck" if traits.bottleneck else "basic",
    }
    for name, (said, where) in claim.facts.items():
        value = list(said) if isinstance(said, tuple) else said
        if value != facts[name]:
            raise ModelError(
                f"{where} says {name.replace('_', ' ')} {str(value)[:80]}, but {source} has "
                f"{facts[name]}.",
                hint="Bring the weights and the description that belong together.",
            )


def _as_claimed(plan: ChannelPlan, claim: Claim, shapes: Shapes) -> ChannelPlan:
    """The plan with the choices that are said; a strided first stage has a projection."""
    widths = dict(plan.widths)
    first = projection_name(plan.spec, "layer1.0")
    if claim.variant.first_stage_stride == 2 and len(shapes.get(f"{first}.weight", ())) == 4:
        widths[first] = shapes[f"{first}.weight"][0]
    return replace(plan, widths=widths, variant=claim.variant, assumed=not claim.settled)


def _classes(shapes: Shapes, source: str, num_classes: int | None) -> int:
    head = shapes.get("fc.weight", ())
    if len(head) != 2:
        raise ModelError(
            f"Expected a classifier 'fc.weight' of shape (classes, features) in {source}, "
            f"got {head or 'none'}.",
            hint="A backbone without its classifier cannot be converted; fine-tune it first.",
        )
    if num_classes is not None and head[0] != num_classes:
        raise ModelError(
            f"{source} has {head[0]} classes where {num_classes} were expected.",
            hint="Correct the class count, or fine-tune the classifier for the new classes.",
        )
    return head[0]


def _traits(shapes: Shapes, stem: tuple[int, ...]) -> _Traits:
    blocks: dict[int, int] = {}
    for name in shapes:
        if match := _BLOCK.match(name):
            stage, block = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), block + 1)
    projections = [
        (name, shape)
        for name, shape in shapes.items()
        if ".downsample." in name and len(shape) == 4
    ]
    return _Traits(
        stem_kernel=stem[3],
        over_lines=_is_over_lines(stem),
        deep_stem="conv1.0.weight" in shapes,
        depths=tuple(blocks[stage] for stage in sorted(blocks)),
        bottleneck=any(name.endswith(".conv3.weight") for name in shapes),
        squeeze=any(name.endswith(".se.fc1.weight") for name in shapes),
        average_down=any(name.endswith(".downsample.1.weight") for name, _ in projections),
        projected=len(projections) == sum(blocks.values()),
    )


def _is_over_lines(stem: tuple[int, ...]) -> bool:
    return stem[2] == 1 and stem[3] > 1


def _distance(plan: ChannelPlan, shapes: Shapes) -> int:
    """How far the widths are from a published network's, in channels; 0 is that network."""
    actual = _with_found_widths(plan, shapes)
    names = set(plan.widths) | set(actual.widths)
    widths = sum(abs(plan.widths.get(n, 0) - actual.widths.get(n, 0)) for n in names)
    # The width of one convolution group survives pruning of whole groups: 32x8d against 64x4d.
    groups = sum(
        abs(plan.widths[n] // g - actual.widths[n] // actual.groups.get(n, 1))
        for n, g in plan.groups.items()
    )
    return widths + groups


def _with_found_widths(plan: ChannelPlan, shapes: Shapes) -> ChannelPlan:
    """The plan with the widths, groups and projections that the weights have.

    A convolution that the weights lack keeps its published width and is reported as missing later.
    """
    widths: dict[str, int] = {}
    for name, published in plan.widths.items():
        shape = shapes.get(f"{name}.weight", ())
        widths[name] = shape[0] if len(shape) == 4 else published
    groups: dict[str, int] = {}
    for name in plan.widths:
        shape = shapes.get(f"{name}.weight", ())
        if name.endswith(".conv2") and len(shape) == 4 and shape[1] > 0:
            entering = widths[f"{name[:-1]}1"]
            count = entering // shape[1]
            if count > 1 and entering % shape[1] == 0 and plan.spec.block == "bottleneck":
                groups[name] = count
            elif name in plan.groups:
                groups[name] = max(count, 1)
    return ChannelPlan(
        plan.architecture,
        plan.num_classes,
        plan.in_channels,
        widths,
        {name: count for name, count in groups.items() if count > 1},
    )
