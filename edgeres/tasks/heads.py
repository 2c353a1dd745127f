"""A task for each head of a network, each with its own output and its own target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.data.targets import Targets
from edgeres.errors import DataError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.tasks.metric import Metric, Rows, Whole
from edgeres.tasks.task import Outputs, Task

_OWN = ("name", "output", "target")


@dataclass(frozen=True)
class Head:
    """One head.

    Attributes:
        output: Name of its output; ``None`` leaves it to the task, where there is but one head.
        target: Name of its target; ``None`` for that of the output's name, or the only one.
        task: What it is for.
    """

    output: str | None
    target: str | None
    task: Task


@dataclass(frozen=True)
class Heads(Task):
    """Several heads, or one whose output or target is chosen by name."""

    heads: tuple[Head, ...]

    @staticmethod
    def of(said: Sequence[Mapping[str, Any]], make: Callable[[str, dict[str, Any]], Task]) -> Heads:
        """Heads from what a recipe says.

        Args:
            said: One mapping a head, with ``name`` and, where there are several, ``output``.
            make: Makes a task from its name and settings.

        Raises:
            UsageError: A head without an output, or two of one.
        """
        heads = []
        for block in said:
            settings = {key: value for key, value in block.items() if key not in _OWN}
            output, target = block.get("output"), block.get("target")
            if output is None and len(said) > 1:
                raise UsageError(
                    f"`task`: which output is the {block['name']} head's?",
                    hint="Give each head its `output: NAME`.",
                )
            heads.append(Head(output, target, make(block["name"], settings)))
        outputs = [head.output for head in heads]
        if len(set(outputs)) != len(outputs):
            raise UsageError(
                "`task`: two heads read one output.", hint="Give each head its own `output: NAME`."
            )
        return Heads(tuple(heads))

    @property
    def name(self) -> str:
        """Names of the tasks."""
        return ", ".join(dict.fromkeys(head.task.name for head in self.heads))

    @property
    def needs_targets(self) -> bool:
        """Whether any head does."""
        return any(head.task.needs_targets for head in self.heads)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of all heads, named ``OUTPUT.METRIC`` where there are several heads."""
        if len(self.heads) == 1:
            return self.heads[0].task.metrics
        return tuple(
            _of_head(metric, str(head.output))
            for head in self.heads
            for metric in head.task.metrics
        )

    @property
    def gated(self) -> tuple[str, ...]:
        """What each head's task gates."""
        if len(self.heads) == 1:
            return self.heads[0].task.gated
        return tuple(f"{head.output}.{name}" for head in self.heads for name in head.task.gated)

    def for_outputs(self, names: Sequence[str]) -> Heads:
        """Each head's task for its output."""
        return Heads(
            tuple(
                replace(h, task=h.task.for_outputs([h.output] if h.output else names))
                for h in self.heads
            )
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """The output of each head.

        Raises:
            ModelError: An output is not there, or not what its task judges.
        """
        names: list[str] = []
        for head in self.heads:
            own = [spec for spec in outputs if head.output in (None, spec.name)]
            if not own:
                raise ModelError(
                    f"there is no output {head.output!r} for the {head.task.name} head; there are "
                    f"{', '.join(spec.name for spec in outputs)}.",
                    hint="Give `task: [{output: NAME, ...}]` the names of outputs.",
                )
            names += head.task.reads(own)
        return tuple(names)

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """The rows of each head, named after its output where there are several.

        Raises:
            DataError: A head's target is not there, or not right.
        """
        rows: dict[str, NDArray[Any]] = {}
        for head in self.heads:
            own = {name: value for name, value in outputs.items() if head.output in (None, name)}
            found = head.task.rows(own, self._target(head, targets))
            prefix = f"{head.output}." if len(self.heads) > 1 else ""
            rows |= {f"{prefix}{name}": row for name, row in found.items()}
        return rows

    def distributions(self, rows: Rows) -> Mapping[str, Mapping[str, NDArray[np.float64]]]:
        """Those of each head."""
        if len(self.heads) == 1:
            return self.heads[0].task.distributions(rows)
        return {
            f"{head.output}: {title}": kinds
            for head in self.heads
            for title, kinds in head.task.distributions(_own(rows, f"{head.output}.")).items()
        }

    def class_map(self, outputs: Outputs) -> NDArray[np.int64] | None:
        """That of the first head that has one."""
        for head in self.heads:
            own = {name: value for name, value in outputs.items() if head.output in (None, name)}
            classes = head.task.class_map(own)
            if classes is not None:
                return classes
        return None

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """What each head says."""
        parts = []
        for head in self.heads:
            own = {name: value for name, value in outputs.items() if head.output in (None, name)}
            text = head.task.text(own, class_names if len(self.heads) == 1 else ())
            parts.append(text if len(self.heads) == 1 else f"{head.output}: {text}")
        return "; ".join(parts)

    def _target(self, head: Head, targets: Targets) -> Targets:
        if not targets:
            return {}
        wanted = head.target if head.target is not None else head.output
        if wanted is not None and wanted in targets:
            return {"": targets[wanted]}
        heads = [h for h in self.heads if h.task.needs_targets] or self.heads
        asked = {h.target or h.output for h in heads}
        if len(targets) == 1 and len(asked) == 1 and ("" in targets or head.target is None):
            return {"": next(iter(targets.values()))}  # one alone has no name
        if not head.task.needs_targets:
            return {}
        raise DataError(
            f"there is no target {wanted or ''!r} for the {head.task.name} head; the data has "
            f"{', '.join(repr(name) for name in targets)}.",
            hint="Give the head its `target: NAME`, or the data a target of that name.",
        )


def _own(rows: Rows, prefix: str) -> Rows:
    """One head's among the rows of all, and the outputs as they are."""
    return {
        name.removeprefix(prefix): row
        for name, row in rows.items()
        if name.startswith(prefix) or ":" in name
    }


def _of_head(metric: Metric, output: str) -> Metric:
    """A metric that reads its own among the rows of all heads."""
    own = partial(_own, prefix=f"{output}.")
    scores, value, closeness = metric.scores, metric.value, metric.closeness

    def scores_of(rows: Rows) -> NDArray[np.float64]:
        assert scores is not None
        return scores(own(rows))

    def value_of(rows: Rows) -> Whole:
        assert value is not None
        return value(own(rows))

    def closeness_of(
        reference: Rows, candidate: Rows
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        assert closeness is not None
        return closeness(own(reference), own(candidate))

    chance = metric.chance
    return replace(
        metric,
        chance=replace(chance, figure=lambda rows: chance.figure(own(rows))) if chance else None,
        name=f"{output}.{metric.name}",
        title=f"{metric.title} of {output!r}",
        scores=scores_of if scores else None,
        value=value_of if value else None,
        closeness=closeness_of if closeness else None,
    )
