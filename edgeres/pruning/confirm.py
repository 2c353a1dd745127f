"""Widths that are not only predicted to be fast: each choice is built, measured and judged.

Round by round the search chooses widths, these are built and timed beside even widths of as many
multiply-adds and the dense network, and what was measured corrects the predictions of the next
round. Widths that were measured to be slower than the even ones are never kept: they lie where the
predictions are wrong, so the next round searches in a smaller region around the even ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgeres.errors import UsageError
from edgeres.layer_latency.bench import NetworkBench
from edgeres.layer_latency.correct import SeenNetwork, corrected
from edgeres.layer_latency.predict import LatencyModel
from edgeres.layer_latency.synthetic import Widths as LayerWidths
from edgeres.pruning.budget import Widths
from edgeres.pruning.confirmed import ConfirmedWidths, Round

ROUNDS = 4
_CLOSE = 0.03  # relative error of a prediction that needs no further round
_NOISE = 0.02  # relative, by which a measurement may miss the budget
_REGION = 0.25  # share of a group's channels around even ones, where a search found nothing faster
_DENSE, _CHOSEN, _EVEN = "dense", "chosen", "uniform"


@dataclass(frozen=True)
class Region:
    """Where widths are sought: a trust region.

    Attributes:
        centre: Widths of the groups.
        share: Of each group's channels, by which the widths may differ from the centre.
    """

    centre: Widths
    share: float


@dataclass(frozen=True)
class Problem:
    """What is searched for.

    Attributes:
        solve: The widths that are best by a latency model, in a region or, with ``None``, of all.
        even: Even widths of as many multiply-adds as those given.
        layers: Input and output channels of every layer where the groups have these widths.
        loss: Importance lost with these widths; of those within the budget the least is kept.
        budget_ms: Milliseconds to stay within, by the clock of the model's dense time; ``None``
            where the fastest is sought.
    """

    solve: Callable[[LatencyModel, Region | None], Widths]
    even: Callable[[Widths], Widths]
    layers: Callable[[Widths], LayerWidths]
    loss: Callable[[Widths], float]
    budget_ms: float | None = None


def confirm(problem: Problem, model: LatencyModel, bench: NetworkBench) -> ConfirmedWidths:
    """Chooses, builds, measures and corrects, until prediction and measurement agree.

    Args:
        problem: What is searched for.
        model: Of the dense network.
        bench: Where networks are built and timed: three engines a round.

    Raises:
        UsageError: The budget cannot be met by the predictions over all widths, and no network was
            measured within it. Where the search is kept near even widths, the fastest is returned.
        EdgeResError: As the bench.
    """
    done: list[Round] = []
    seen: list[SeenNetwork] = []
    region: Region | None = None
    for number in range(1, ROUNDS + 1):
        try:
            widths = problem.solve(model, region)
        except UsageError:
            if region is None and not any(_fits(problem, _best_ms(found)) for found in done):
                raise
            break  # the corrected model sees no way there
        if any(widths == found.widths for found in done):
            break
        found = _measured(problem, model, bench, widths)
        done.append(found)
        if found.kept == "uniform":
            share = _REGION if region is None else region.share / 2
            region = Region(found.uniform_widths, share)
        for chosen, ms in ((widths, found.measured_ms), (found.uniform_widths, found.uniform_ms)):
            seen.append(SeenNetwork(problem.layers(chosen), ms))
        model = corrected(model, seen)
        off = found.predicted_ms / found.measured_ms - 1
        bench.note(
            f"widths by latency, round {number} of at most {ROUNDS}: predicted "
            f"{found.predicted_ms:.3g} ms, built {found.measured_ms:.3g} ms ({100 * off:+.1f} %), "
            f"even widths {found.uniform_ms:.3g} ms"
        )
        if abs(off) <= _CLOSE and found.kept == "latency" and _fits(problem, found.measured_ms):
            break
    return _best(problem, done)


def _measured(problem: Problem, model: LatencyModel, bench: NetworkBench, widths: Widths) -> Round:
    even = problem.even(widths)
    layers = {_DENSE: {}, _CHOSEN: problem.layers(widths), _EVEN: problem.layers(even)}
    if even == widths:  # as they are: timed once
        del layers[_EVEN]
    times_ms = bench.measure(layers)
    # The machine's clock is not always the same; shares of the dense network's time are.
    clock = model.dense_ms / times_ms[_DENSE]
    return Round(
        widths=dict(widths),
        predicted_ms=model.predict_ms(layers[_CHOSEN]),
        measured_ms=clock * times_ms[_CHOSEN],
        uniform_widths=dict(even),
        uniform_predicted_ms=model.predict_ms(layers.get(_EVEN, layers[_CHOSEN])),
        uniform_ms=clock * times_ms.get(_EVEN, times_ms[_CHOSEN]),
        dense_ms=times_ms[_DENSE],
    )


def _best(problem: Problem, done: list[Round]) -> ConfirmedWidths:
    """The least importance lost of what was measured within the budget, else the fastest."""
    fitting = [found for found in done if _fits(problem, _best_ms(found))]
    if fitting and problem.budget_ms is not None:
        best = min(fitting, key=lambda found: (problem.loss(_kept_widths(found)), _best_ms(found)))
    else:
        best = min(done, key=_best_ms)
    by_latency = best.kept == "latency"
    return ConfirmedWidths(
        widths=_kept_widths(best),
        kept=best.kept,
        predicted_ms=best.predicted_ms if by_latency else best.uniform_predicted_ms,
        measured_ms=_best_ms(best),
        uniform_ms=best.uniform_ms,
        within_budget=bool(fitting),
        rounds=tuple(done),
    )


def _fits(problem: Problem, ms: float) -> bool:
    return problem.budget_ms is None or ms <= (1 + _NOISE) * problem.budget_ms


def _best_ms(found: Round) -> float:
    return min(found.measured_ms, found.uniform_ms)


def _kept_widths(found: Round) -> Mapping[str, int]:
    return found.widths if found.kept == "latency" else found.uniform_widths
