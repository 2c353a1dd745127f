"""Which layers to keep in float: as few milliseconds as it takes until an accuracy budget holds.

Sensitivity in simulation ranks the layers; what keeping one in float costs is measured on real
engines, because it depends on what the engine fuses and on conversions around a float layer. A sum
and the convolution that an engine fuses into it may stay float together. Layers are then kept in
float in the order of noise saved per millisecond (:mod:`edgeres.quantization.float_search`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from edgeres.errors import DataError, GateError
from edgeres.quantization.effect import Effect
from edgeres.quantization.float_search import Candidate, FloatSearch, Trial
from edgeres.quantization.sensitivity import Sensitivity

#: Differences of latency below this share of it are not measurable; nothing is cheaper.
_RESOLUTION = 0.01
#: Costs within this factor count as equal.
_ALIKE = 1.5


@dataclass(frozen=True)
class Budget:
    """What must hold; ``None`` leaves a limit out.

    Attributes:
        max_drop: Largest loss of the metric against ``reference``, in its unit.
        min_agreement: Smallest share of images with the FP32 model's class.
        min_sqnr_db: Smallest signal to noise of the outputs against the FP32 model's.
        reference: The metric of the network that was brought, on the same samples.
        metric: What people call it.
        unit: Its unit.
        higher_is_better: Which way is good.
    """

    max_drop: float | None = None
    min_agreement: float | None = None
    min_sqnr_db: float | None = None
    reference: float | None = None
    metric: str = "top-1"
    unit: str = "pp"
    higher_is_better: bool = True

    def broken(self, effect: Effect) -> str:
        """What does not hold, in words; empty where all does.

        Raises:
            DataError: A drop is asked for and the samples have no targets.
        """
        parts = []
        if self.max_drop is not None:
            if effect.figure is None or self.reference is None:
                raise DataError(
                    "`max_drop` needs targets, and the calibration samples have none.",
                    hint="Use `min_agreement` or `min_sqnr_db`.",
                )
            drop = self.reference - effect.figure
            drop = drop if self.higher_is_better else -drop
            if drop > self.max_drop + 1e-9:
                unit = f" {self.unit}" if self.unit else ""
                parts.append(f"{self.metric} drops {drop:.3g}{unit}, {self.max_drop:g} allowed")
        agreement = effect.agreement
        if self.min_agreement is not None and (agreement or 0.0) < self.min_agreement:
            parts.append(
                f"{100 * (agreement or 0.0):.2f} % agree with FP32, "
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
    fused: Sequence[tuple[str, str]] = (),
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
        fused: Sums and the convolution that an engine may fuse into each, by name.

    Raises:
        GateError: The budget does not hold even in float, or not with that much INT8.
        DataError: The budget asks for targets that are not there.
    """
    beyond = budget.broken(fp32)
    if beyond:
        raise GateError(
            f"mixed precision: even with all layers in float the budget does not hold: {beyond}.",
            hint="The loss is not quantization's: recover accuracy before, or allow more.",
        )
    book = _Book(budget, answers)
    if not book.trial(frozenset()).broken:
        return MixedPrecision((), (), tuple(book.trials), None, None)
    layers = sensitivities()
    ranked = _ranked(layers, latencies, candidates, fused)
    growth = FloatSearch(book.trial, ranked, min_int8_coverage)
    keep_float = growth.run()
    if keep_float is None:
        raise _not_held(growth, min_int8_coverage, more=len(layers.nodes) > candidates)
    book.trial(frozenset(keep_float))
    int8_ms, mixed_ms = latencies([frozenset(), frozenset(keep_float)])
    return MixedPrecision(tuple(keep_float), tuple(ranked), tuple(book.trials), int8_ms, mixed_ms)


def _not_held(growth: FloatSearch, min_int8_coverage: float, *, more: bool) -> GateError:
    """Says how near the search came, and only what can help."""
    ways = ["allow more"]
    if growth.refused_for_coverage:
        ways.insert(0, "lower gates.min_int8_coverage")
    if more:
        ways.append("raise mixed_precision.candidates")
    best = growth.best
    hint = " or ".join(ways)
    return GateError(
        f"mixed precision: no engine with {100 * min_int8_coverage:g} % of its MACs in INT8 that "
        f"was tried holds the budget; the best keeps {', '.join(best.keep_float) or 'nothing'} in "
        f"float: {best.broken}.",
        hint=f"{hint[0].upper()}{hint[1:]}.",
    )


class _Book:
    """The engines that were asked so far, each once."""

    def __init__(self, budget: Budget, answers: Answers) -> None:
        self.trials: list[Trial] = []
        self._budget = budget
        self._answers = answers
        self._by_nodes: dict[frozenset[str], Trial] = {}

    def trial(self, keep_float: frozenset[str]) -> Trial:
        """The engine with these nodes in float, measured the first time; the last one asked for."""
        trial = self._by_nodes.get(keep_float)
        if trial is None:
            measured = self._answers(keep_float)
            trial = Trial(
                tuple(sorted(keep_float)),
                measured.effect,
                measured.int8_coverage,
                self._budget.broken(measured.effect),
            )
            self._by_nodes[keep_float] = trial
        else:
            self.trials.remove(trial)
        self.trials.append(trial)
        return trial


def _ranked(
    layers: Sensitivity, latencies: Latencies, count: int, fused: Sequence[tuple[str, str]]
) -> list[Candidate]:
    """The noisiest layers with their measured costs, most noise saved per millisecond first.

    Costs that are about alike count as equal, and equal ones follow the noise: a little noise in
    the times changes nothing.
    """
    noise = {layer.node: layer.only.noise for layer in layers.nodes}
    noisy = sorted(noise, key=lambda node: -noise[node])[:count]
    together = [
        pair for pair in fused if set(pair) <= noise.keys() and not set(pair).isdisjoint(noisy)
    ]
    units = [*((node,) for node in noisy), *together]
    base, *times = latencies([frozenset(), *(frozenset(unit) for unit in units)])
    costs = _alike([max(time - base, _RESOLUTION * base) for time in times])
    ranked = [
        Candidate(unit, sum(noise[node] for node in unit), cost)
        for unit, cost in zip(units, costs, strict=True)
    ]
    return sorted(ranked, key=lambda item: -item.noise / item.cost_ms)


def _alike(costs_ms: Sequence[float]) -> list[float]:
    """Each cost as the least of those that it is about alike."""
    alike: dict[float, float] = {}
    least = 0.0
    for cost in sorted(costs_ms):
        if cost > _ALIKE * least:
            least = cost
        alike[cost] = least
    return [alike[cost] for cost in costs_ms]
