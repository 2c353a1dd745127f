"""Which layers to keep in float: as few milliseconds as it takes until an accuracy budget holds.

Sensitivity in simulation ranks the layers; what keeping one in float costs is measured on real
engines, because it depends on what the engine fuses and on conversions around a float layer. Layers
are then kept in float in the order of noise saved per millisecond, and after each the engine
itself is asked whether the budget holds. At the end each is tried in INT8 again, the dearest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from edgeres.errors import DataError, GateError
from edgeres.quantization.sensitivity import Effect, Sensitivity

#: Differences of latency below this share of it are not measurable; nothing is cheaper.
_RESOLUTION = 0.01


@dataclass(frozen=True)
class Budget:
    """What must hold; ``None`` leaves a limit out.

    Attributes:
        max_drop_pp: Largest drop of top-1 against ``reference_top1``, in percentage points.
        min_agreement: Smallest share of images with the FP32 model's class.
        min_sqnr_db: Smallest signal to noise of the logits against the FP32 model's.
        reference_top1: Top-1 of the network that was brought, on the same images.
    """

    max_drop_pp: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    reference_top1: float | None = None

    def broken(self, effect: Effect) -> str:
        """What does not hold, in words; empty where all does.

        Raises:
            DataError: A drop is asked for and the images have no labels.
        """
        parts = []
        if self.max_drop_pp is not None:
            if effect.top1 is None or self.reference_top1 is None:
                raise DataError(
                    "max_drop_pp needs labels, and the calibration images have none.",
                    hint="Use min_agreement or min_sqnr_db.",
                )
            drop = 100 * (self.reference_top1 - effect.top1)
            if drop > self.max_drop_pp + 1e-9:
                parts.append(f"top-1 drops {drop:.2f} pp, {self.max_drop_pp:g} allowed")
        if self.min_agreement is not None and effect.agreement < self.min_agreement:
            parts.append(
                f"{100 * effect.agreement:.2f} % agree with FP32, "
                f"{100 * self.min_agreement:g} % asked"
            )
        if self.min_sqnr_db is not None and effect.sqnr_db < self.min_sqnr_db:
            parts.append(f"SQNR {effect.sqnr_db:.1f} dB, {self.min_sqnr_db:g} asked")
        return "; ".join(parts)


@dataclass(frozen=True)
class Measured:
    """A real engine with some layers in float, on the held-out images."""

    effect: Effect
    int8_coverage: float


@dataclass(frozen=True)
class Candidate:
    """A layer that could stay float: noise it would save, and what that costs."""

    node: str
    noise: float
    cost_ms: float


@dataclass(frozen=True)
class Trial:
    """One engine that was tried; ``broken`` is empty where the budget holds."""

    keep_float: tuple[str, ...]
    effect: Effect
    int8_coverage: float
    broken: str


@dataclass(frozen=True)
class MixedPrecision:
    """What the search found.

    Attributes:
        keep_float: Nodes to keep in float, in the order in which they were chosen.
        candidates: Layers whose cost was measured, best first.
        trials: All engines tried, in order; the last holds the budget.
        int8_ms: p50 of the engine with everything in INT8; ``None`` where nothing was measured.
        mixed_ms: p50 of the engine found, in the same rounds.
    """

    keep_float: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    trials: tuple[Trial, ...]
    int8_ms: float | None
    mixed_ms: float | None

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)


Answers = Callable[[frozenset[str]], Measured]
Latencies = Callable[[Sequence[frozenset[str]]], Sequence[float]]


def search(
    budget: Budget,
    fp32: Effect,
    answers: Answers,
    sensitivities: Callable[[], Sensitivity],
    latencies: Latencies,
    *,
    min_int8_coverage: float,
    candidates: int,
) -> MixedPrecision:
    """Finds layers to keep in float.

    Args:
        budget: What must hold.
        fp32: The FP32 model on the held-out images.
        answers: Builds and runs an engine with these nodes in float.
        sensitivities: Measures the layers; called only where INT8 alone does not hold the budget.
        latencies: p50 in milliseconds of several engines that take turns.
        min_int8_coverage: Smallest share of MACs in INT8.
        candidates: How many layers have their cost measured.

    Raises:
        GateError: The budget does not hold even in float, or not with that much INT8.
        DataError: The budget asks for labels that are not there.
    """
    beyond = budget.broken(fp32)
    if beyond:
        raise GateError(
            f"mixed precision: even with all layers in float the budget does not hold: {beyond}.",
            hint="The loss is not quantization's: recover accuracy before, or allow more.",
        )
    book = _Book(budget, answers)
    if not book.ask(frozenset()):
        return MixedPrecision((), (), tuple(book.trials), None, None)
    ranked = _ranked(sensitivities(), latencies, candidates)
    float_nodes = _grow(book, ranked, min_int8_coverage)
    float_nodes = _shrink(book, float_nodes, {item.node: item.cost_ms for item in ranked})
    book.ask(frozenset(float_nodes))
    int8_ms, mixed_ms = latencies([frozenset(), frozenset(float_nodes)])
    return MixedPrecision(tuple(float_nodes), tuple(ranked), tuple(book.trials), int8_ms, mixed_ms)


class _Book:
    """The engines that were asked so far, each once."""

    def __init__(self, budget: Budget, answers: Answers) -> None:
        self.trials: list[Trial] = []
        self._budget = budget
        self._answers = answers
        self._known: dict[frozenset[str], Trial] = {}

    def ask(self, float_nodes: frozenset[str]) -> str:
        """What does not hold with these nodes in float."""
        return self.trial(float_nodes).broken

    def trial(self, float_nodes: frozenset[str]) -> Trial:
        """The engine with these nodes in float, measured the first time; the last one asked for."""
        trial = self._known.get(float_nodes)
        if trial is None:
            answer = self._answers(float_nodes)
            broken = self._budget.broken(answer.effect)
            trial = Trial(tuple(sorted(float_nodes)), answer.effect, answer.int8_coverage, broken)
            self._known[float_nodes] = trial
        else:
            self.trials.remove(trial)
        self.trials.append(trial)
        return trial


def _ranked(measured: Sensitivity, latencies: Latencies, count: int) -> list[Candidate]:
    """The noisiest layers with their measured costs, most noise saved per millisecond first."""
    noisy = sorted(measured.nodes, key=lambda item: -item.only.noise)[:count]
    base, *times = latencies([frozenset(), *(frozenset({item.node}) for item in noisy)])
    ranked = [
        Candidate(item.node, item.only.noise, max(time - base, _RESOLUTION * base))
        for item, time in zip(noisy, times, strict=True)
    ]
    return sorted(ranked, key=lambda item: -item.noise / item.cost_ms)


def _grow(book: _Book, ranked: Sequence[Candidate], min_int8_coverage: float) -> list[str]:
    """Keeps layer after layer in float until the budget holds."""
    float_nodes: list[str] = []
    best = book.trials[-1]
    for candidate in ranked:
        trial = book.trial(frozenset({*float_nodes, candidate.node}))
        if trial.int8_coverage < min_int8_coverage:
            continue
        if not trial.broken:
            return [*float_nodes, candidate.node]
        if trial.effect.sqnr_db >= best.effect.sqnr_db:
            float_nodes.append(candidate.node)
            best = trial
    raise GateError(
        f"mixed precision: no engine with {100 * min_int8_coverage:g} % of its MACs in INT8 holds "
        f"the budget; the best keeps {', '.join(float_nodes) or 'nothing'} in float: "
        f"{best.broken}.",
        hint="Lower checks.min_int8_coverage, allow more, or raise mixed_precision.candidates.",
    )


def _shrink(book: _Book, float_nodes: Sequence[str], costs: Mapping[str, float]) -> list[str]:
    """Takes back what the layers chosen later have made needless, the dearest first."""
    needed = list(float_nodes)
    for node in sorted(float_nodes, key=lambda name: -costs[name]):
        without = [name for name in needed if name != node]
        if without and not book.ask(frozenset(without)):
            needed = without
    return needed
