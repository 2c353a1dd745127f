"""Runs an engine over a labelled set, each sample once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.backends.classifier import class_scores, single_output
from edgeres.errors import DataError
from edgeres.evaluation.distinct import Sketcher, Sketches
from edgeres.evaluation.passes import answer, one_pass
from edgeres.evaluation.predictions import Predictions
from edgeres.system.progress import ProgressCallback

if TYPE_CHECKING:
    from edgeres.data.bad_images import BadImages
    from edgeres.data.preprocess import Preprocess
    from edgeres.data.types import Dataset

BATCH = 100
"""Images a run where answers are to be the same whoever computes them."""


def predict(
    runner: Runner,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    batch_size: int = 64,
    name: str = "",
    model_sha256: str = "",
    workers: int = 0,
    skipped: BadImages | None = None,
    batches_alike: bool = True,
    progress: ProgressCallback | None = None,
) -> Predictions:
    """Answers of one engine on a whole data set.

    The batch is the nearest that the engine takes; see :func:`fed_batches` for the last one.

    Args:
        runner: A loaded classifier: one image input ``(N, C, H, W)`` or ``(N, H, W, C)`` and one
            output ``(N, K)``.
        dataset: Labelled images.
        preprocess: How an image becomes numbers, layout included.
        batch_size: Images a run, as far as the engine takes so many or so few.
        name: What answers, for messages and reports.
        model_sha256: Hash of the engine or model file, kept with the answers.
        workers: Threads that decode images ahead.
        skipped: Collects images that cannot be decoded, which are then left out; give the same one
            to every pass over a data set, so that the passes stay paired. Without it the first
            raises.
        batches_alike: Whether to answer some of the images again in other batches.
        progress: Called with images done and images in all.

    Raises:
        DataError: The data set is empty, an image is bad, or its classes do not fit the model's.
        ModelError: The engine is not such a classifier, gives a wrong number of rows, or answers
            that depend on the batch.
    """
    from edgeres.data.features import spread_of
    from edgeres.evaluation.batching import BatchWatch

    target = single_output(runner)
    logits: list[NDArray[np.float32]] = []
    places: list[NDArray[np.int64]] = []
    sketches: list[Sketches] = []
    sketch: Sketcher | None = None
    watch = BatchWatch(len(dataset))

    def scores(images: Array) -> NDArray[np.float32]:
        return class_scores(answer(runner, images), target, len(images))

    for images, outputs, rows in one_pass(
        runner,
        dataset,
        preprocess,
        batch_size=batch_size,
        workers=workers,
        skipped=skipped,
        progress=progress,
    ):
        logits.append(class_scores(outputs, target, len(images)))
        classes = len(dataset.class_names)
        if classes not in (0, logits[-1].shape[1]):  # before the rest is answered in vain
            raise DataError(
                f"{name or 'the engine'}: {dataset.name} has {classes} classes, the model gives "
                f"{logits[-1].shape[1]} scores.",
                hint="Use the data set that the model was trained for.",
            )
        places.append(rows)
        sketch = sketch or Sketcher(preprocess, images.shape[1:], spread_of(dataset))
        sketches.append(sketch(images))
        if batches_alike:
            watch.saw(images, logits[-1])
    watch.check(scores, runner.batch_limits, name or "the engine")
    return Predictions(
        logits=np.concatenate(logits),
        labels=dataset.labels[np.concatenate(places)].astype(np.int64, copy=False),
        name=name,
        model_sha256=model_sha256,
        data_fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
        sketches=np.concatenate(sketches),
    )
