"""Runs an engine over a labelled set, each sample once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, Runner
from edgeres.backends.classifier import (
    check_images,
    class_scores,
    fed_batches,
    single_input,
    single_output,
)
from edgeres.errors import DataError
from edgeres.evaluation.distinct import Sketcher, Sketches
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
    from edgeres.data.batches import batches
    from edgeres.evaluation.batching import BatchWatch

    if len(dataset) == 0:
        raise DataError(f"{dataset.name}: the data set is empty.", hint="Give labelled images.")
    source, target = single_input(runner), single_output(runner)
    rows: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    sketches: list[Sketches] = []
    sketch: Sketcher | None = None
    watch = BatchWatch(len(dataset))
    done = 0

    def answer(images: Array) -> NDArray[np.float32]:
        scores = [
            class_scores(runner.infer({source.name: fed}), target, len(fed))[:count]
            for fed, count in fed_batches(runner, images)
        ]
        return scores[0] if len(scores) == 1 else np.concatenate(scores)

    for images, batch_labels in batches(
        dataset, preprocess, runner.batch_limits.fit(batch_size), workers=workers, skipped=skipped
    ):
        check_images(source, images)
        rows.append(answer(images))
        classes = len(dataset.class_names)
        if classes not in (0, rows[-1].shape[1]):  # before the rest is answered in vain
            raise DataError(
                f"{name or 'the engine'}: {dataset.name} has {classes} classes, the model gives "
                f"{rows[-1].shape[1]} scores.",
                hint="Use the data set that the model was trained for.",
            )
        labels.append(batch_labels)
        sketch = sketch or Sketcher(preprocess, images.shape[1:])
        sketches.append(sketch(images))
        if batches_alike:
            watch.saw(images, rows[-1])
        done += len(images)
        if progress is not None:
            progress(done, len(dataset))
    left_out = len(skipped.reasons) if skipped is not None else 0
    if not len(dataset) - left_out <= done <= len(dataset):
        raise DataError(
            f"{dataset.name}: expected {len(dataset)} images, {done} were read.",
            hint="The data set changed while it was read; run again.",
        )
    watch.check(answer, runner.batch_limits, name or "the engine")
    return Predictions(
        logits=np.concatenate(rows),
        labels=np.concatenate(labels).astype(np.int64, copy=False),
        name=name,
        model_sha256=model_sha256,
        data_fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
        sketches=np.concatenate(sketches),
    )
