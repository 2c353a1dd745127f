"""How much of the logits each layer's quantization costs: which layers to keep an eye on, or float.

One layer at a time is quantized, weights and activations, and all others stay float; the network
then runs in float arithmetic between Q and DQ on a few hundred images, from where it differs on.
The noise that single layers bring to the logits nearly adds up to that of the whole network, so a
layer's share says what keeping it in float would win (the layer-wise analysis of Wu et al.,
"Integer Quantization for Deep Learning Inference", arXiv:2004.09602, section 5.2). The other way
round, all layers but one, is exact where noises are not independent, and costs more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from edgeres.quantization.forward import chunks
from edgeres.quantization.placement import nature, place
from edgeres.quantization.quantize import prepare
from edgeres.quantization.table import CalibrationTable
from edgeres.quantization.variants import Choices, Live, Variants
from edgeres.recipe.quantize import QuantizeSettings
from edgeres.sqnr import EQUAL_DB, bounded_db, ratio_db
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
class Effect:
    """What some quantization does to the logits, against the FP32 model.

    Attributes:
        sqnr_db: Signal to noise, at most :data:`EQUAL_DB`.
        agreement: Share of images with the same class, in [0, 1].
        top1: Share of images with the right class; ``None`` without labels.
    """

    sqnr_db: float
    agreement: float
    top1: float | None

    @property
    def noise(self) -> float:
        """Noise power over signal power."""
        return 10 ** (-self.sqnr_db / 10)


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
        fp32_top1: Of the FP32 model; ``None`` without labels.
        quantized: With everything quantized.
        nodes: One entry for each node that becomes INT8.
    """

    rules: str
    samples: int
    fp32_top1: float | None
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
    labels: NDArray[np.int64] | None = None,
    *,
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
        images: ``(N, C, H, W) float32``, better not those that calibrated.
        labels: ``(N,) int64`` classes, for accuracy.
        settings: How it is quantized; always rounded to nearest and with the analytic bias
            correction, if any, since what measures on images would fit those that it is judged by.
        all_but: Also quantize everything but each node.
        threads: Images that run at once, each in one thread; ``None`` takes as many as there are
            CPUs. No figure depends on it.
        progress: Called with batches run and batches in all, of all variants.

    Raises:
        DataError: There are no images, or another number of labels.
        EdgeResError: As :func:`edgeres.quantization.quantize.quantize`.
    """
    if not len(images) or (labels is not None and len(labels) != len(images)):
        raise DataError(
            f"expected images, and a label for each or none, got {len(images)} images and "
            f"{0 if labels is None else len(labels)} labels.",
            hint="Give some hundred images.",
        )
    settings = (settings or QuantizeSettings()).without_images()
    with freed_memory_kept():
        return _measured(onnx, table, rules, images, labels, settings, all_but, threads, progress)


def _measured(
    onnx: Path,
    table: CalibrationTable,
    rules: QdqRules,
    images: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
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
    batches = list(_batches(onnx, images, labels))
    with ThreadPoolExecutor(threads or usable_threads()) as pool:
        fp32, *effects = _effects(variants, trials, batches, pool, progress)
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
        fp32_top1=fp32.top1,
        quantized=effects[-1],
        nodes=tuple(nodes),
    )


def _effects(
    variants: Variants,
    trials: Sequence[Choices],
    batches: Sequence[_Batch],
    pool: ThreadPoolExecutor,
    progress: ProgressCallback | None,
) -> list[Effect]:
    """The effect of nothing quantized, and of each of the variants.

    Images run in rounds: of one round, what goes over the cuts is in memory for both networks that
    variants share pieces with. Batches of a round run side by side, each in one thread: threads
    that share one small layer mostly wait for each other.
    """
    tallies = [_Tally() for _ in range(1 + len(trials))]
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
            all_logits = pool.map(partial(_logits, variants, choices), shown, shared_outputs)
            for batch, ran, logits in zip(shown, shared_outputs, all_logits, strict=True):
                exact = variants.answer(ran[0][1])[: batch.count]
                tallies[index].add(exact, logits, batch.labels)
            if progress is not None and index:
                done += len(shown)
                progress(done, len(batches) * len(trials))
        begin += len(shared_outputs)
    return [tally.effect() for tally in tallies]


def _logits(
    variants: Variants, choices: Choices, batch: _Batch, outputs: _Known
) -> NDArray[np.float32]:
    """Of the images that count."""
    return variants.logits(choices, batch.fed, outputs)[: batch.count]


def _bytes(outputs: Sequence[_Known]) -> int:
    tensors = (
        tensor for ran in outputs for _, cuts in ran for live in cuts for tensor in live.values()
    )
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


@dataclass(frozen=True)
class _Batch:
    """Images as a model takes them, how many of them count, and the labels of those."""

    fed: NDArray[np.float32]
    count: int
    labels: NDArray[np.int64] | None


def _batches(
    onnx: Path, images: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> Iterator[_Batch]:
    size = summarize(onnx).inputs[0].shape[0]
    limits = BatchLimits() if size is None else BatchLimits(size, size)
    begin = 0
    for chunk in chunks(iter([images])):
        for fed, count in fitted(chunk, limits):
            own = None if labels is None else labels[begin : begin + count]
            yield _Batch(fed.astype(np.float32, copy=False), count, own)
            begin += count


def effect_of(
    exact: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> Effect:
    """Compares logits ``(N, K)`` with the FP32 model's; a sample with NaN or Inf never agrees."""
    tally = _Tally()
    tally.add(exact, logits, labels)
    return tally.effect()


@dataclass
class _Tally:
    """Sums over images of what an :class:`Effect` says."""

    signal: float = 0.0
    noise: float = 0.0
    agreeing: int = 0
    right: int | None = None
    count: int = 0
    finite: bool = True

    def add(
        self,
        exact: NDArray[np.float32],
        logits: NDArray[np.float32],
        labels: NDArray[np.int64] | None,
    ) -> None:
        """Counts some images in."""
        sound = np.isfinite(logits).all(axis=1)
        self.count += len(logits)
        self.finite &= bool(sound.all())
        self.agreeing += int(((exact.argmax(axis=1) == logits.argmax(axis=1)) & sound).sum())
        if labels is not None:
            self.right = (self.right or 0) + int(((logits.argmax(axis=1) == labels) & sound).sum())
        self.signal += float(np.square(exact.astype(np.float64)).sum())
        self.noise += float(np.square(exact[sound].astype(np.float64) - logits[sound]).sum())

    def effect(self) -> Effect:
        """Of all images so far."""
        return Effect(
            sqnr_db=bounded_db(ratio_db(self.signal, self.noise) if self.finite else -EQUAL_DB),
            agreement=self.agreeing / self.count,
            top1=None if self.right is None else self.right / self.count,
        )
