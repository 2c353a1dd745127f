"""By which figure the effects of quantizing layers are judged on a set of samples."""

from __future__ import annotations

import numpy as np

from edgeres.data.preprocess import Preprocess
from edgeres.data.targets import targets_of
from edgeres.data.types import Dataset
from edgeres.quantization.effect import Judged
from edgeres.tasks import CLASSIFICATION, open_tasks
from edgeres.tasks.task import Task


def judged_by(
    samples: Dataset, preprocess: Preprocess, task: Task | None, metric: str = ""
) -> Judged | None:
    """The metric and what is right for the samples.

    Args:
        samples: Those that are measured on.
        preprocess: How a sample becomes numbers.
        task: What the outputs mean; ``None`` for a classifier.
        metric: Name of the metric; empty takes the first that the task gates.

    Returns:
        ``None`` where the samples lack the targets that the task needs.

    Raises:
        DataError: A mask cannot be read.
    """
    if task is None:
        if (samples.labels < 0).any():
            return None
        return Judged(open_tasks([{"name": CLASSIFICATION}]), {"": samples.labels})
    targets = targets_of(samples, np.arange(len(samples)), preprocess)
    if task.needs_targets and not targets:
        return None
    return Judged(task, targets, metric)
