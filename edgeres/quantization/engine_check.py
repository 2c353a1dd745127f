"""Lets an engine decide whether it computes a suspicious node otherwise than the file says.

The node is cut out with its neighbours, built by the backend and fed with numbers over the whole
range of its tensors. What the engine gives for it is held against the arithmetic of the file on the
engine's own inputs, so that nothing that happens before the node is blamed on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir

from edgeres.backends.base import Array, Backend, BuildConfig
from edgeres.errors import EdgeResError
from edgeres.graph.layers import constant
from edgeres.graph.session import open_session
from edgeres.graph.shapes import set_batch
from edgeres.quantization.hazards import hazards
from edgeres.quantization.neighbourhood import Cut, cut_out
from edgeres.quantization.qdq_view import Finding, Q
from edgeres.quantization.stored_weight import stored_weight
from edgeres.sqnr import sqnr_db
from edgeres.system.temporary import temporary_folder

#: Rounding moves a value by one step at most; two are too many.
_MAX_STEPS = 2.5
_BESIDE_RANGE = 1.05


def decided_hazards(
    model: ir.Model,
    backend: Backend,
    config: BuildConfig,
    *,
    can_run: bool,
    saturating: bool = False,
) -> tuple[Finding, ...]:
    """What the engine really computes otherwise, and what it could not be asked.

    Args:
        model: Quantized model; shapes are added in place.
        backend: Whose engine it is for.
        config: How that engine is built.
        can_run: Whether it runs on this machine; where it does not, all stay a risk.
        saturating: Whether sums clip on that device: a layer that can clip is said to do so by the
            rules, and its other suspicions are not asked about, as the answer would be that.
    """
    suspicions = [
        (node, suspicion)
        for node, suspicion in hazards(model.graph)
        if not (saturating and _can_clip(node))
    ]
    if not suspicions:
        return ()
    try:
        set_batch(model, 1)
    except EdgeResError:
        can_run = False
    findings = []
    for node, suspicion in suspicions:
        cuts = cut_out(model, node) if can_run else ()
        answers = [_asked(cut, backend, config) for cut in cuts]
        deviation = next(filter(None, answers), "")
        if not deviation and (None in answers or not answers):
            text = f"{suspicion.message}: some engines compute that otherwise than the file says, "
            text += "and this one could not be asked here. Measure accuracy on the device."
            findings.append(replace(suspicion, message=text))
        elif deviation:
            text = (
                f"{suspicion.message}: {deviation}. Keep this node in float, or write it otherwise."
            )
            findings.append(replace(suspicion, message=text, severity="wrong"))
    return tuple(findings)


def _can_clip(node: ir.Node) -> bool:
    weight = stored_weight(node)
    proof = None if weight is None else weight.saturation
    return proof is not None and not proof.safe


def _asked(cut: Cut, backend: Backend, config: BuildConfig) -> str | None:
    """How far the engine is off, in words; empty where it is not, ``None`` if it cannot say."""
    try:
        tensors = _run(cut, backend, config)
        alone = open_session(cut.alone, optimize=False)
        (right,) = alone.run([cut.gives], {name: tensors[name] for name in cut.reads})
    except (EdgeResError, RuntimeError, ValueError):  # a cut that the engine refuses tells nothing
        return None
    mine = tensors[cut.gives]
    if mine.shape != right.shape:
        return f"the engine gives {list(mine.shape)} and the file {list(right.shape)}"
    exact = right.astype(np.float64)
    largest = float(np.abs(mine - exact).max(initial=0.0))
    distance = sqnr_db(right.astype(np.float32), mine.astype(np.float32))
    if cut.step is not None or right.dtype.kind in "iu":
        steps = largest / (cut.step or 1.0)
        if not steps > _MAX_STEPS:
            return ""
        return f"this engine is up to {steps:.0f} quantization steps off here ({distance:.1f} dB)"
    return "" if distance >= cut.least_db else f"this engine is off by {distance:.1f} dB here"


def _run(cut: Cut, backend: Backend, config: BuildConfig) -> dict[str, Array]:
    """What the engine gives, together with what was fed."""
    feeds = dict(_feeds(cut))
    with temporary_folder() as folder:
        source = folder / "cut.onnx"
        source.write_bytes(cut.whole)
        engine = backend.build(source, folder / f"cut{backend.engine_suffix}", config)
        with backend.load(engine, config) as runner:
            inputs = {spec.name: feeds[spec.name] for spec in runner.inputs}
            return {**feeds, **runner.infer(inputs)}


def _feeds(cut: Cut) -> Iterator[tuple[str, Array]]:
    """Numbers over the range of each input and a little beyond; integers over all of theirs."""
    random = np.random.default_rng(0)
    ranges = _ranges(cut)
    for name, (dtype, shape) in cut.inputs.items():
        if dtype.kind in "iu":
            limits = np.iinfo(dtype.name)
            yield name, random.integers(limits.min, limits.max + 1, shape).astype(dtype)
            continue
        low, high = ranges.get(name, (-3.0, 3.0))
        middle, half = (low + high) / 2, (high - low) / 2 * _BESIDE_RANGE
        yield name, random.uniform(middle - half, middle + half, shape).astype(dtype)


def _ranges(cut: Cut) -> Mapping[str, tuple[float, float]]:
    """Range of the inputs that are quantized first, from their scale and zero point."""
    graph = ir.from_proto(onnx.load_from_string(cut.whole)).graph
    ranges = {}
    for node in graph:
        value, scale = node.inputs[0], constant(node.inputs[1]) if node.op_type == Q else None
        if value is None or scale is None:
            continue
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.uint8(0)
        if zero is None or np.asarray(zero).dtype.kind not in "iu":
            continue
        limits = np.iinfo(np.asarray(zero).dtype.name)
        at, size = int(np.ravel(zero)[0]), float(np.ravel(scale)[0])
        ranges[value.name or ""] = ((limits.min - at) * size, (limits.max - at) * size)
    return ranges
