"""What each layer's quantization costs the outputs: which layers to keep an eye on, or float.

One layer at a time is quantized, weights and activations, and all others stay float; the network
then runs in float arithmetic between Q and DQ on a few hundred images, from where it differs on.
The noise that single layers bring to the outputs nearly adds up to that of the whole network, so a
layer's share says what keeping it in float would win (the layer-wise analysis of Wu et al.,
"Integer Quantization for Deep Learning Inference", arXiv:2004.09602, section 5.2). The other way
round, all layers but one, is exact where noises are not independent, and costs more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import BatchLimits, QdqRules
from edgeres.backends.classifier import fitted
from edgeres.errors import DataError
from edgeres.graph.layers import node_name
from edgeres.graph.summary import node_macs, summarize
from edgeres.quantization.effect import Effect, Given, Judged, Tally
from edgeres.quantization.forward import chunks
from edgeres.quantization.placement import nature, place
from edgeres.quantization.quantize import prepare
from edgeres.quantization.table import CalibrationTable
from edgeres.quantization.variants import Choices, Live, Variants
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.system.container_limits import usable_threads
from edgeres.system.freed_memory import freed_memory_kept
from edgeres.system.progress import ProgressCallback

#: Bytes of what goes over the cuts, of both networks, that are kept at once.
_KEPT_BYTES = 256 << 20
#: Batches of which that is made before the bytes are counted.
_AT_ONCE = 4

#: For one batch, the two networks and what they give over each cut.
_Known = list[tuple[Choices, list[Live]]]


@dataclass(frozen=True)
class NodeSensitivity:
    """One node: the effect of quantizing it alone, and (where asked) everything but it."""

    node: str
    op: str
    macs: int
    only: Effect
    all_but: Effect | None = None


@dataclass(frozen=True)
class Sensitivity:
    """A network's layers, the most sensitive first.

    Attributes:
        rules: Name of the rule set.
        samples: Number of images.
        metric: What the figures of effects are, e.g. ``top-1``; empty without targets.
        unit: Of those figures.
        fp32: Figure of the FP32 model; ``None`` without targets.
        quantized: With everything quantized.
        nodes: One entry for each node that becomes INT8.
    """

    rules: str
    samples: int
    metric: str
    unit: str
    fp32: float | None
    quantized: Effect
    nodes: tuple[NodeSensitivity, ...]

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self) | {"nodes": [asdict(node) for node in self.nodes]}


def sensitivity(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    images: NDArray[np.float32],
    judged: Judged | None = None,
    *,
    classes: bool = True,
    settings: QuantizeSettings | None = None,
    all_but: bool = False,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Sensitivity:
    """Measures each layer's share of the quantization noise.

    Args:
        onnx: FP32 model in normal form.
        table: Its calibration table.
        rules: Of the backend and device that will run it.
        images: Samples ``(N, ...) float32``, better not those that calibrated.
        judged: The metric that is measured beside the noise; ``None`` without targets.
        classes: Whether the network is a classifier, of which the share of equal answers tells.
        settings: How it is quantized; always rounded to nearest and with the analytic bias
            correction, if any, since what measures on images would fit those that it is judged by.
        all_but: Also quantize everything but each node.
        threads: Images that run at once, each in one thread; ``None`` takes as many as there are
            CPUs. No figure depends on it.
        progress: Called with batches run and batches in all, of all variants.

    Raises:
        DataError: There are no images, or another number of targets, or some that do not fit.
        ModelError: The outputs are not what the task judges.
        EdgeResError: As :func:`edgeres.quantization.quantize.quantize`.
    """
    counts = {len(images)} | {len(v) for v in (judged.targets if judged else {}).values()}
    if counts != {len(images)} or 0 in counts:
        raise DataError(
            f"expected samples, and a target for each or none, got {sorted(counts)}.",
            hint="Give some hundred samples.",
        )
    settings = (settings or QuantizeSettings()).without_images()
    with freed_memory_kept():
        tally = partial(Tally, judged, classes)
        return _measured(onnx, table, rules, images, tally, settings, all_but, threads, progress)


def _measured(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    images: NDArray[np.float32],
    tally: Callable[[], Tally],
    settings: QuantizeSettings,
    all_but: bool,
    threads: int | None,
    progress: ProgressCallback | None,
) -> Sensitivity:
    prepared = prepare(onnx, table, rules, settings)
    graph = prepared.model.graph
    names = prepared.placement.quantized_nodes
    macs = node_macs(onnx)
    variants = Variants(prepared.model, prepared.items, prepared.params, rules)

    known = nature(graph, rules)

    def without(float_nodes: frozenset[str]) -> Choices:
        kept = replace(rules, keep_float=rules.keep_float | float_nodes)
        return variants.choose(place(graph, kept, known))

    only = {name: without(frozenset(names) - {name}) for name in names}
    others = {name: without(frozenset({name})) for name in names} if all_but else {}
    trials = [*only.values(), *others.values(), variants.quantized]
    batches = list(_batches(onnx, images))
    with ThreadPoolExecutor(threads or usable_threads()) as pool:
        (metric, unit), (fp32, *effects) = _effects(
            variants, trials, batches, tally, pool, progress
        )
    ops = {node_name(node): node.op_type for node in graph}
    nodes = [
        NodeSensitivity(
            node=name,
            op=ops[name],
            macs=macs.get(name, 0),
            only=effects[index],
            all_but=effects[len(names) + index] if all_but else None,
        )
        for index, name in enumerate(names)
    ]
    nodes.sort(key=lambda item: item.only.sqnr_db)
    return Sensitivity(
        rules=rules.name,
        samples=len(images),
        metric=metric,
        unit=unit,
        fp32=fp32.figure,
        quantized=effects[-1],
        nodes=tuple(nodes),
    )


def _effects(
    variants: Variants,
    trials: Sequence[Choices],
    batches: Sequence[_Batch],
    tally: Callable[[], Tally],
    pool: ThreadPoolExecutor,
    progress: ProgressCallback | None,
) -> tuple[tuple[str, str], list[Effect]]:
    """What figures are, and the effect of nothing quantized and of each of the variants.

    Images run in rounds: of one round, what goes over the cuts is in memory for both networks that
    variants share pieces with. Batches of a round run side by side, each in one thread: threads
    that share one small layer mostly wait for each other.
    """
    tallies = [tally() for _ in range(1 + len(trials))]
    shared = (variants.exact, variants.quantized)

    def run_shared(batch: _Batch) -> _Known:
        return [(choices, list(variants.run(choices, batch.fed))) for choices in shared]

    begin = done = 0
    while begin < len(batches):
        shared_outputs: list[_Known] = []
        while begin + len(shared_outputs) < len(batches) and _bytes(shared_outputs) <= _KEPT_BYTES:
            first = begin + len(shared_outputs)
            shared_outputs += pool.map(run_shared, batches[first : first + _AT_ONCE])
        shown = batches[begin : begin + len(shared_outputs)]
        for index, choices in enumerate((variants.exact, *trials)):
            answers = pool.map(partial(_answer, variants, choices), shown, shared_outputs)
            for batch, ran, answer in zip(shown, shared_outputs, answers, strict=True):
                exact = variants.answer(ran[0][1], batch.count)
                tallies[index].add(exact, answer)
            if progress is not None and index:
                done += len(shown)
                progress(done, len(batches) * len(trials))
        begin += len(shared_outputs)
    return tallies[0].measures, [one.effect() for one in tallies]


def _answer(variants: Variants, choices: Choices, batch: _Batch, outputs: _Known) -> Given:
    """Of the images that count."""
    return variants.outputs(choices, batch.fed, outputs, batch.count)


def _bytes(outputs: Sequence[_Known]) -> int:
    tensors = (
        tensor for ran in outputs for _, cuts in ran for live in cuts for tensor in live.values()
    )
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


@dataclass(frozen=True)
class _Batch:
    """Samples as a model takes them, and how many of them count."""

    fed: NDArray[np.float32]
    count: int


def _batches(onnx: Path, images: NDArray[np.float32]) -> Iterator[_Batch]:
    size = summarize(onnx).inputs[0].shape[0]
    limits = BatchLimits() if size is None else BatchLimits(size, size)
    for chunk in chunks(iter([images])):
        for fed, count in fitted(chunk, limits):
            yield _Batch(fed.astype(np.float32, copy=False), count)
