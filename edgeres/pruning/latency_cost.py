"""What a choice of widths costs in milliseconds on a device, for the search for widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from torch import nn

from edgeres.errors import ModelError
from edgeres.layer_latency.predict import LatencyModel
from edgeres.pruning.budget import Widths
from edgeres.pruning.groups import ChannelGroup

_NEAR = 4  # groups that differ from the widths that were summed up last


class LatencyCost:
    """Predicted milliseconds of one run as a function of the groups' widths.

    Args:
        groups: Of the network, which may be narrower than the one that the model describes.
        model: Times of its layers, by the names of the torch layers.

    Raises:
        ModelError: A layer of a group has no measured time.
    """

    def __init__(self, groups: Sequence[ChannelGroup], model: LatencyModel) -> None:
        self._groups = tuple(groups)
        self._model = model
        known = {layer.name: layer for layer in model.layers}
        # For each layer its input's and its output's group, and channels there for one of these.
        self._inputs: dict[str, tuple[ChannelGroup, int]] = {}
        self._outputs: dict[str, tuple[ChannelGroup, int]] = {}
        for group in groups:
            for member in group.members:
                if member.side == "norm":
                    continue
                if member.layer not in known:
                    raise ModelError(
                        f"Layer '{member.layer}' has no measured latency.",
                        hint="Measure the ONNX file that was exported from this very network.",
                    )
                place = (group, len(member.root) // group.channels)
                if member.side in ("in", "both"):
                    self._inputs[member.layer] = place
                if member.side in ("out", "both"):
                    self._outputs[member.layer] = place
        self._layers = known
        self._touched: dict[str, set[str]] = {}  # layers that a group's width changes
        for places in (self._inputs, self._outputs):
            for layer, (group, _) in places.items():
                self._touched.setdefault(group.name, set()).add(layer)
        self._anchor: dict[str, int] = {}
        self._anchor_ms: dict[str, float] = {}
        self._anchor_total = 0.0

        @cache
        def layer_ms(name: str, inputs: int, outputs: int) -> float:
            return model.layer_ms(known[name], inputs, outputs)

        self._layer_ms = layer_ms

    def __call__(self, widths: Widths) -> float:
        """Milliseconds where the groups have these widths; one not named keeps its own.

        A search asks for widths that differ little from those before, so only the layers of what
        differs are looked at.
        """
        differing = {name for name, _ in widths.items() ^ self._anchor.items()}
        if not self._anchor_ms or len(differing) > _NEAR:
            self._anchor = dict(widths)
            self._anchor_ms = {name: self._ms(name, widths) for name in self._layers}
            self._anchor_total = sum(self._anchor_ms.values())
            return self._model.offset_ms + self._anchor_total
        touched = {layer for group in differing for layer in self._touched.get(group, ())}
        change = sum(self._ms(name, widths) - self._anchor_ms[name] for name in touched)
        return self._model.offset_ms + self._anchor_total + change

    def _ms(self, name: str, widths: Widths) -> float:
        return self._layer_ms(name, *self._channels(name, widths))

    def layer_widths(self, widths: Widths) -> dict[str, tuple[int, int]]:
        """Input and output channels of every layer where the groups have these widths."""
        return {name: self._channels(name, widths) for name in self._layers}

    def _channels(self, name: str, widths: Widths) -> tuple[int, int]:
        layer = self._layers[name]
        return (
            _channels(self._inputs.get(name), widths, layer.inputs),
            _channels(self._outputs.get(name), widths, layer.outputs),
        )


def module_widths(module: nn.Module, model: LatencyModel) -> dict[str, tuple[int, int]]:
    """Input and output channels that each layer of a module has.

    Raises:
        ModelError: The module lacks a layer of the model.
    """
    found = {}
    parts = dict(module.named_modules())
    for layer in model.layers:
        part = parts.get(layer.name)
        if not isinstance(part, nn.Conv2d | nn.Linear):
            raise ModelError(
                f"The network has no layer '{layer.name}' whose latency was measured.",
                hint="Measure the ONNX file that was exported from this very network.",
            )
        outputs, inputs = part.weight.shape[:2]
        found[layer.name] = (inputs * getattr(part, "groups", 1), outputs)
    return found


def predicted_ms(module: nn.Module, model: LatencyModel) -> float:
    """Predicted milliseconds of one run of a module, at the widths that it has.

    Raises:
        ModelError: The module lacks a layer of the model.
    """
    return model.predict_ms(module_widths(module, model))


def _channels(place: tuple[ChannelGroup, int] | None, widths: Mapping[str, int], whole: int) -> int:
    if place is None:
        return whole
    group, times = place
    return widths.get(group.name, group.channels) * times
