"""Which layers of a comparison stand out, in words, the one to look at first in front.

Kinds:
    engine        the engine computes something else than its ONNX source, by more than rounding
    quantization  the candidate's layer alone loses far more of the signal than the others do
    unfused       the source asks for INT8, the engine runs the layer in float: slower, not worse
    float         the source leaves this layer in float though others are INT8

Beside the kind stands the cause, as far as it was checked (:mod:`.causes`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeres.evaluation.causes import Evidence
from edgeres.evaluation.distances import EngineDistance, LayerDistance
from edgeres.graph.layers import WEIGHTED

#: Rounding moves a value by one step at most where a sum lies near the border; two are too many.
_MAX_STEPS = 2.5
#: Float layers differ by the order of sums only.
_FLOAT_DB = 40.0
#: A layer this far below the median of all layers is an outlier, if it also is this noisy.
_OUTLIER_DB = 10.0
_NOISY_DB = 25.0


@dataclass(frozen=True)
class Suspect:
    """One layer and why it stands out.

    Attributes:
        node: ONNX name of the layer.
        kind: See the module's list.
        model: The file that it was seen in.
        text: In one or two sentences.
        cause: What was found to be the cause: the rule that the source breaks (``saturation``,
            ``pool``, ...), ``weight-scale``, ``activation-scale``, ``range``, or ``unknown``; for
            ``unfused`` and ``float`` the kind itself.
    """

    node: str
    kind: Literal["engine", "quantization", "unfused", "float"]
    model: str
    text: str
    cause: str = "unknown"


def suspects(
    layers: Sequence[LayerDistance], reference: Path, candidate: Path, evidence: Evidence
) -> tuple[Suspect, ...]:
    """Names the layers that stand out, engine faults first, each kind in topological order."""
    result: list[Suspect] = []
    for layer in layers:
        for model, distance in ((reference, layer.reference), (candidate, layer.candidate)):
            if distance is not None and _beyond_rounding(distance):
                cause, why = evidence.of_engine(layer, candidate=distance is layer.candidate)
                text = f"{_engine_text(layer, distance)} {why}"
                result.append(Suspect(layer.node, "engine", str(model), text, cause))
    named = {suspect.node for suspect in result}
    far = _outliers(layers, candidate, evidence)
    result += [suspect for suspect in far if suspect.node not in named]
    for layer in layers:
        for model, distance in ((reference, layer.reference), (candidate, layer.candidate)):
            if distance is not None and distance.int8_asked and distance.precision != "int8":
                text = (
                    f"{layer.node} is Q/DQ in the ONNX file, but the engine runs it in "
                    f"{distance.precision}: it was not fused."
                )
                result.append(Suspect(layer.node, "unfused", str(model), text, "unfused"))
    weighted = [layer for layer in layers if layer.op in WEIGHTED]
    if any(layer.int8_asked for layer in weighted):
        text = "{} has no Q/DQ in the ONNX file, so it runs in float while other layers are INT8."
        result += [
            Suspect(layer.node, "float", str(candidate), text.format(layer.node), "float")
            for layer in weighted
            if not layer.int8_asked
        ]
    return tuple(result)


def _beyond_rounding(distance: EngineDistance) -> bool:
    if distance.max_steps is None:
        return distance.own_sqnr_db < _FLOAT_DB
    return distance.max_steps > _MAX_STEPS


def _engine_text(layer: LayerDistance, distance: EngineDistance) -> str:
    if distance.max_steps is None:
        return (
            f"{layer.node}: the engine differs from its ONNX source by "
            f"{distance.own_sqnr_db:.1f} dB, more than the order of float sums explains."
        )
    return (
        f"{layer.node}: from the same inputs the engine's output is up to {distance.max_steps:.0f} "
        f"quantization steps away from what its ONNX source says ({distance.own_sqnr_db:.1f} dB); "
        "rounding explains one."
    )


def _outliers(
    layers: Sequence[LayerDistance], candidate: Path, evidence: Evidence
) -> list[Suspect]:
    """Layers whose own noise is far above the others'.

    The first is the cause: one behind it may clip what comes out of its range.
    """
    own = [(layer, layer.own_sqnr_db) for layer in layers if layer.own_sqnr_db is not None]
    if len(own) < 2:
        return []
    usual = statistics.median(value for _, value in own)
    far = [
        (layer, value) for layer, value in own if value < usual - _OUTLIER_DB and value < _NOISY_DB
    ]
    result = []
    for layer, value in far:
        cause, why = evidence.of_quantization(layer)
        text = (
            f"{layer.node} alone leaves {value:.1f} dB of the signal, where the middle layer "
            f"leaves {usual:.1f} dB: {why}"
        )
        result.append(Suspect(layer.node, "quantization", str(candidate), text, cause))
    return result
