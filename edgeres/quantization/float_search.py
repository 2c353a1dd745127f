"""Which layers stay float: grown while an engine gets better, then taken back where needless.

Layers are kept in float one candidate after the other, and the engine itself is asked after each.
What did not help alone is tried again once something else was kept, then by twos. Where that does
not hold the budget, all candidates are kept at once and taken back one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from edgeres.graph import layers as graphs
from edgeres.quantization.effect import Effect

#: Candidates that are tried by twos, the best first.
_PAIRED = 6


@dataclass(frozen=True)
class Candidate:
    """Layers that could stay float together: noise that they would save, and what that costs."""

    nodes: tuple[str, ...]
    noise: float
    cost_ms: float


@dataclass(frozen=True)
class Trial:
    """One engine that was tried; ``broken`` is empty where the budget holds."""

    keep_float: tuple[str, ...]
    effect: Effect
    int8_coverage: float
    broken: str


class FloatSearch:
    """One search; engines are asked through ``ask``, which may remember them.

    Attributes:
        best: The engine nearest to the budget among those with enough INT8.
        refused_for_coverage: Whether an engine was refused since too little of it was INT8.
    """

    def __init__(
        self,
        ask: Callable[[frozenset[str]], Trial],
        ranked: Sequence[Candidate],
        min_int8_coverage: float,
    ) -> None:
        """Asks for the engine with everything in INT8.

        Args:
            ask: Builds and runs an engine with these nodes in float.
            ranked: Candidates, the best first.
            min_int8_coverage: Smallest share of MACs in INT8.
        """
        self._ask = ask
        self._ranked = ranked
        self._least = min_int8_coverage
        self.best = ask(frozenset())
        self.refused_for_coverage = False

    def run(self) -> list[str] | None:
        """Nodes to keep in float, in order; ``None`` where nothing that was tried is enough."""
        held = self._grow() or self._all()
        return None if held is None else self._shrink(held)

    def _grow(self) -> list[str] | None:
        keep_float: list[str] = []
        waiting = list(self._ranked)
        while waiting:
            progress = False
            steps: Iterable[tuple[Candidate, ...]] = [(candidate,) for candidate in waiting]
            for step in (*steps, *combinations(waiting[:_PAIRED], 2)):
                if len(step) > 1 and progress:
                    break  # twos only where none helps alone
                if any(candidate not in waiting for candidate in step):
                    continue
                nodes = [n for c in step for n in c.nodes if n not in keep_float]
                before = self.best
                trial = self._tried([*keep_float, *nodes])
                if trial is None:
                    if len(step) == 1:
                        waiting.remove(step[0])  # more in float only lowers the coverage
                    continue
                if not trial.broken:
                    return [*keep_float, *nodes]
                if trial.effect.sqnr_db > before.effect.sqnr_db:
                    keep_float += dict.fromkeys(nodes)
                    waiting = [candidate for candidate in waiting if candidate not in step]
                    progress = True
                    if len(step) > 1:
                        break
            if not progress:
                return None
        return None

    def _all(self) -> list[str] | None:
        """As many candidates as the coverage allows, where that holds the budget."""
        keep_float: list[str] = []
        for candidate in self._ranked:
            more = [*keep_float, *(node for node in candidate.nodes if node not in keep_float)]
            if self._ask(frozenset(more)).int8_coverage >= self._least:
                keep_float = more
        trial = self._tried(keep_float)
        return keep_float if trial is not None and not trial.broken else None

    def _tried(self, keep_float: Sequence[str]) -> Trial | None:
        """An engine; ``None`` where too little of it is INT8."""
        trial = self._ask(frozenset(keep_float))
        if trial.int8_coverage < self._least:
            self.refused_for_coverage = True
            return None
        if trial.effect.sqnr_db > self.best.effect.sqnr_db:
            self.best = trial
        return trial

    def _shrink(self, held: Sequence[str]) -> list[str]:
        """Takes back what the layers chosen later have made needless, the dearest first."""
        costs = {node: item.cost_ms for item in reversed(self._ranked) for node in item.nodes}
        needed = list(held)
        for node in sorted(held, key=lambda name: -costs[name]):
            without = [name for name in needed if name != node]
            if without and not self._ask(frozenset(without)).broken:
                needed = without
        return needed


def fused_sums(onnx: Path) -> list[tuple[str, str]]:
    """Sums of a network and the convolutions that write straight into them, by node name.

    An engine may compute both as one, and then converts nothing between them: in float they cost
    less together than apart.

    Raises:
        ModelError: The file cannot be read.
    """
    return [
        (graphs.node_name(node), graphs.node_name(producer))
        for node in graphs.load_model(onnx).graph
        if node.op_type == "Add"
        for value in node.inputs
        if value is not None and len(value.uses()) == 1
        for producer in [value.producer()]
        if producer is not None and producer.op_type == "Conv"
    ]
