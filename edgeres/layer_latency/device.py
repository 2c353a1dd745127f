"""Where pruning by latency measures: a target, how its engines run, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeres.backends.target import Target, open_target
from edgeres.errors import BackendMissingError, EdgeResError, StageError, UsageError
from edgeres.layer_latency.bench import EngineBench
from edgeres.layer_latency.measure import measurement_context
from edgeres.layer_latency.predict import latency_model
from edgeres.layer_latency.table import MeasurementContext, Precision
from edgeres.recipe.recipe import Recipe
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    from edgeres.layer_latency.predict import LatencyModel

_PRECISIONS: dict[str, Precision] = {
    "int8": "int8",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
}
"""What the recipe's precision is called in a table of latencies."""


@dataclass(frozen=True)
class LatencyTarget:
    """A target that widths are measured on.

    Attributes:
        target: Backend and device, able to run here.
        say: Where notes go, one line each.
        precision: Of the engines.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        batch: Images in a run.
    """

    target: Target
    say: Callable[[str], None]
    precision: Precision = "int8"
    threads: int | None = None
    batch: int = 1

    @property
    def place(self) -> MeasurementContext:
        """What a latency table that is measured so belongs to."""
        return measurement_context(
            self.target, precision=self.precision, threads=self.threads, batch=self.batch
        )

    def model(
        self, onnx: Path, table: Path, progress: ProgressCallback | None = None
    ) -> LatencyModel:
        """The latency model of a dense network; what the table lacks is measured and kept in it.

        Raises:
            StageError: The times were disturbed; the table is removed, so the next call measures.
            EdgeResError: As :func:`edgeres.layer_latency.predict.latency_model`.
        """
        table.parent.mkdir(parents=True, exist_ok=True)
        try:
            return latency_model(
                onnx,
                self.target,
                precision=self.precision,
                threads=self.threads,
                batch=self.batch,
                path=table,
                progress=progress,
            )
        except StageError:
            table.unlink(missing_ok=True)
            raise

    def bench(self, onnx: Path, model: LatencyModel) -> EngineBench:
        """Where widths of that network are built and measured."""
        return EngineBench(onnx, self.target, model.table, say=self.say)


def latency_target(
    recipe: Recipe, targets: Sequence[Target], say: Callable[[str], None]
) -> LatencyTarget:
    """Where a recipe prunes by latency: the target that `latency_on` names, or the first here.

    Args:
        recipe: With a ``prune:`` block.
        targets: Those of the recipe.
        say: Where notes go.

    Raises:
        UsageError: The recipe has no such target.
        BackendMissingError: It cannot run here.
    """
    assert recipe.prune is not None
    wanted_name = recipe.prune.latency_on
    matches = [target for target in targets if wanted_name is None or target.name == wanted_name]
    if not matches:
        raise UsageError(
            f"`latency_on: {wanted_name}` is not among the recipe's targets.",
            hint=f"Choose one of: {', '.join(target.name for target in targets)}.",
        )
    for target in matches:
        if target.not_executable is None:
            return LatencyTarget(
                target,
                say,
                precision=_PRECISIONS[recipe.quantize.precision],
                threads=recipe.benchmark.threads,
                batch=recipe.benchmark.batch_size,
            )
    raise BackendMissingError(
        f"pruning by latency measures on the device: {matches[0].not_executable}",
        hint="Use allocation: global, or add a target that runs here.",
    )


def latency_target_here(
    recipe: Recipe, names: Sequence[str], say: Callable[[str], None]
) -> LatencyTarget:
    """As :func:`latency_target`, for a command that opens no targets of its own.

    Args:
        recipe: With a ``prune:`` block; the target that it names in `latency_on` need not be among
            its targets.
        names: Of its targets; those that are not installed are passed over.
        say: Where notes go.

    Raises:
        BackendMissingError: None of them runs here.
        UsageError: No such target.
    """
    assert recipe.prune is not None
    wanted_name = recipe.prune.latency_on
    opened: list[Target] = []
    problem: EdgeResError | None = None
    for name in [wanted_name] if wanted_name else names:
        try:
            settings, activations = recipe.build.get(name), recipe.quantize.activations
            opened.append(open_target(name, settings=settings, activations=activations))
        except BackendMissingError as error:
            problem = problem or error
    if not opened:
        assert problem is not None
        raise problem
    return latency_target(recipe, opened, say)
