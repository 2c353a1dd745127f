"""What feeds a network on any engine: its one input and output, batches that fit it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Array, BatchLimits, Runner
from edgeres.errors import DataError, ModelError
from edgeres.graph.feeds import as_taken
from edgeres.graph.summary import TensorSpec

_IMAGE = 3  # dimensions of one image
_ROUNDING = 0.01
"""How far an INT8 probability may lie outside of [0, 1]."""


def single_input(runner: Runner) -> TensorSpec:
    """The one input of a network: of images, or of features of any shape.

    Raises:
        ModelError: The engine has several inputs, or one that is not a batch.
    """
    if len(runner.inputs) != 1 or len(runner.inputs[0].shape) < 2:
        found = ", ".join(f"{spec.name} {_shape(spec)}" for spec in runner.inputs) or "none"
        raise ModelError(
            f"expected one input (N, ...), got {found}.",
            hint="Only networks with one input of images or features can be evaluated.",
        )
    return runner.inputs[0]


def check_images(source: TensorSpec, images: Array) -> None:
    """Compares a batch with what the engine takes, apart from the batch dimension.

    Raises:
        DataError: The shapes differ.
    """
    wanted = source.shape[1:]
    got = images.shape[1:]
    if len(wanted) != len(got) or any(w not in (None, g) for w, g in zip(wanted, got, strict=True)):
        raise DataError(
            f"the engine takes images of shape {_shape(source)}, preprocessing gives "
            f"(N, {', '.join(map(str, got))})."
            if len(wanted) == _IMAGE
            else f"the engine takes features of shape {_shape(source)}, the data set has "
            f"(N, {', '.join(map(str, got))}).",
            hint="Set resize, crop, channels and layout in the preprocessing to fit the model; "
            "features need the shape that it was trained on."
            if len(wanted) == _IMAGE
            else "Give the features that the network was trained on.",
        )


def single_output(runner: Runner) -> TensorSpec:
    """The one output of an image classifier.

    Raises:
        ModelError: The engine has several outputs.
    """
    if len(runner.outputs) != 1:
        found = ", ".join(f"{spec.name} {_shape(spec)}" for spec in runner.outputs) or "none"
        raise ModelError(
            f"expected one output with class scores, got {found}.",
            hint="Export the model with its logits as the only output.",
        )
    return runner.outputs[0]


def class_scores(answer: dict[str, Array], target: TensorSpec, count: int) -> NDArray[np.float32]:
    """The answer as ``(N, K)`` float32; trailing dimensions of size 1 are dropped.

    A network of two classes may give the probability ``p`` of class 1 alone: that becomes
    ``(1 - p, p)``, so that class 1 wins above 0.5.

    Raises:
        ModelError: Not one row of scores for each image, or one score that is no probability.
    """
    array = answer[target.name]
    if array.ndim < 2 or array.shape[0] != count or any(size != 1 for size in array.shape[2:]):
        raise ModelError(
            f"expected the output {target.name} to be ({count}, K), got {array.shape}.",
            hint="The model must give one row of class scores for each image of the batch.",
        )
    scores: NDArray[np.float32] = array.reshape(array.shape[:2]).astype(np.float32)
    return _of_two_classes(scores, target.name) if scores.shape[-1] == 1 else scores


def _of_two_classes(scores: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    if len(scores) and not (scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING):
        raise ModelError(
            f"the output {name} is one number an image and no probability: {scores.min():.4g} to "
            f"{scores.max():.4g}.",
            hint="A network of two classes must end in a Sigmoid or have two scores.",
        )
    both: NDArray[np.float32] = np.concatenate([1 - scores, scores], axis=1)
    return both


def fed_batches(runner: Runner, images: Array) -> Iterator[tuple[Array, int]]:
    """Any number of images as batches that the engine takes, in its own element type.

    Where the engine wants more images than are left, the batch is filled up with copies of the last
    one; their answers are to be dropped.

    Yields:
        A batch, and how many of its first images are real.

    Raises:
        DataError: The engine takes bytes, and these are none.
    """
    source = single_input(runner)
    for batch, count in fitted(images, runner.batch_limits):
        yield as_taken(source.dtype, batch), count


def fitted(images: Array, limits: BatchLimits) -> Iterator[tuple[Array, int]]:
    """The same for any taker of batches: each filled up where it wants more, and its real count."""
    size = limits.fit(max(len(images), 1))
    for start in range(0, max(len(images), 1), size):
        part = images[start : start + size]
        missing = limits.fit(len(part)) - len(part)
        filled = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
        yield filled, len(part)


def _shape(spec: TensorSpec) -> str:
    return "(" + ", ".join("N" if size is None else str(size) for size in spec.shape) + ")"
