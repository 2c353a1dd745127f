"""``custom:FILE.py:FUNCTION``: a metric that the user wrote, run in the user's own process.

The function gets the outputs and the targets of a batch, ``{name: (N, ...)}`` each, and returns one
score for each sample, ``(N,)``. The metric is their mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.data.targets import Targets
from edgeres.errors import DataError, UsageError
from edgeres.graph.summary import TensorSpec
from edgeres.recipe.block import Block
from edgeres.system.user_code import load_function, user_errors
from edgeres.tasks.metric import Metric, Rows
from edgeres.tasks.outputs import OutputsTask
from edgeres.tasks.task import Outputs, Task

_SCORE = "score"
_HINT = (
    "It gets (outputs, targets), a dictionary of arrays (N, ...) each, and returns one score for "
    "each sample."
)


class CustomSettings(Block):
    """What a recipe says of it."""

    function: str = Field(description="FILE.py:FUNCTION, which scores a batch.")
    unit: str = Field(default="", description="Unit of the scores, as it is shown.")
    better: Literal["higher", "lower"] = Field(default="higher", description="Which way is good.")
    max_drop: float = Field(
        default=0.0, description="Loss of the mean score that is allowed where no gate says it."
    )


@dataclass(frozen=True)
class CustomTask(Task):
    """The user's own metric.

    Attributes:
        function: What scores a batch.
        where: ``FILE.py:FUNCTION``, for messages.
        code_sha256: Hash of the file: another one is another task.
        unit: Of the scores.
        higher_is_better: Which way is good.
        max_drop: Loss of the mean score that is allowed where no gate says otherwise.
    """

    function: Callable[[Outputs, Targets], Any]
    where: str
    code_sha256: str
    unit: str = ""
    higher_is_better: bool = True
    max_drop: float = 0.0

    @property
    def name(self) -> str:
        """Name of the task."""
        return "custom"

    @property
    def needs_targets(self) -> bool:
        """The function says itself what it cannot do without."""
        return False

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The mean of the function's scores, under the function's name."""
        label = self.where.rpartition(":")[2]
        return (
            Metric(
                name=label,
                title=label,
                unit=self.unit,
                higher_is_better=self.higher_is_better,
                max_drop=self.max_drop,
                scores=lambda rows: rows[_SCORE].astype(np.float64),
            ),
        )

    def reads(self, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
        """All outputs."""
        return OutputsTask().reads(outputs)

    def rows(self, outputs: Outputs, targets: Targets) -> Rows:
        """The scores of a batch.

        Raises:
            DataError: The function raised, or did not return one number for each sample.
        """
        count = len(next(iter(outputs.values())))
        with user_errors(DataError, self.where, _HINT):
            given = (
                {name: values.copy() for name, values in of.items()} for of in (outputs, targets)
            )
            scores: NDArray[np.float64] = np.asarray(self.function(*given), dtype=np.float64)
        if scores.shape != (count,):
            raise DataError(
                f"{self.where}: expected one score for each of {count} samples, got an array of "
                f"shape {scores.shape}.",
                hint="Return numpy.array of shape (N,); the metric is their mean.",
            )
        if np.isnan(scores).any() and all(np.isfinite(v).all() for v in outputs.values()):
            raise DataError(
                f"{self.where}: {int(np.isnan(scores).sum())} of {count} scores are NaN though all "
                "outputs are numbers.",
                hint="Return a number for every sample.",
            )
        return {_SCORE: scores}

    def text(self, outputs: Outputs, class_names: Sequence[str]) -> str:
        """Shape and first numbers of each output."""
        return OutputsTask().text(outputs, class_names)


def make_task(settings: dict[str, Any]) -> CustomTask:
    """Loads the user's function.

    Raises:
        UsageError: No such file or function, or it cannot be imported; a key that there is not.
    """
    own = CustomSettings(**settings)
    file, _, name = own.function.rpartition(":")
    path = Path(file).expanduser()
    if not name or not path.is_file():
        raise UsageError(
            f"`task`: expected FILE.py:FUNCTION for the custom metric, got {own.function!r}.",
            hint="Give --task custom:metrics.py:score, with a file that exists.",
        )
    return CustomTask(
        load_function(path, name),
        f"{path.name}:{name}",
        hashlib.sha256(path.read_bytes()).hexdigest(),
        own.unit,
        own.better == "higher",
        own.max_drop,
    )
