"""How many different images a labelled set really shows.

A set of 10,000 files may be 1,000 images ten times over. Bounds that count each file as a draw of
its own would then be far too tight, so every bound counts what is different.

Images are compared as the network gets them, after resize and crop and before normalization: what
was saved twice, under another name or in another format, is the same there, and so is an image that
was compressed again or disturbed by a grey level or two. Each image leaves a sketch of sixteen
numbers while it is answered, its projections on fixed random signs (D. Achlioptas, "Database-
friendly random projections", Journal of Computer and System Sciences 66, 2003): their distance is
that of the images, within a quarter, whatever the size of the images.

Features are brought to the same measure: the standard deviation of all their numbers counts as 64
levels, about that of a photograph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess

Sketches = NDArray[np.int16]
"""``(N, 16) int16``, in sixteenths of a grey level."""

SKETCH = 16
_UNIT = 16.0  # parts of a grey level that a sketch tells apart
_SEED = 20240229

SAME_LEVELS = 4.0
"""Root mean square of the difference in grey levels up to which two images may be the same one.
Fashion-MNIST's 10,000 test images have one such pair; the next is far above the limit."""
_SAME_ANSWER = 0.25
"""And their FP32 answers may differ by this share of an answer's size: an image whose one small
defect decides its class is another image."""


_NEPER_LEVELS = 20.0  # that a change of a spectrogram by one neper counts as
_SPREAD_LEVELS = 64.0  # grey levels that the standard deviation of features counts as


class Sketcher:
    """Sketches preprocessed images, or features.

    Args:
        preprocess: How the images became numbers, which is undone up to a constant.
        shape: ``(C, H, W)``, or ``(H, W, C)`` with layout ``nhwc``, of one image; any of features.
        spread: Standard deviation of the features of the whole set, over 0, as
            :func:`edgeres.data.features.spread_of` gives it; ``None`` for images.
    """

    def __init__(
        self, preprocess: Preprocess, shape: tuple[int, ...], spread: float | None = None
    ) -> None:
        size = int(np.prod(shape))
        signs = np.random.default_rng(_SEED).integers(0, 2, (size, SKETCH)) * 2.0 - 1.0
        if spread is not None:
            scale = np.full((size, 1), _SPREAD_LEVELS / spread)
        elif preprocess.log_mel is not None:
            scale = np.full((size, 1), _NEPER_LEVELS * float(np.mean(preprocess.std)))
        else:
            levels = np.asarray(preprocess.std, dtype=np.float64) / preprocess.scale
            places = (-1, 1, 1) if preprocess.layout == "nchw" else (1, 1, -1)
            scale = np.broadcast_to(levels.reshape(places), shape).reshape(size, 1)
        self._projection = signs * scale * (_UNIT / np.sqrt(size))

    def __call__(self, images: NDArray[np.float32]) -> Sketches:
        """Sketches of ``(N, ...)`` preprocessed images; float64 keeps them equal everywhere."""
        flat = images.reshape(len(images), -1).astype(np.float64)
        ends = np.iinfo(np.int16)
        levels: Sketches = np.clip(np.rint(flat @ self._projection), ends.min, ends.max).astype(
            np.int16
        )
        return levels


def same_images(sketches: Sketches, logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Which samples show the same image.

    Args:
        sketches: ``(N, 16)``.
        logits: ``(N, K)``, finite, what the FP32 network answers.

    Returns:
        ``(N,)``: for each sample the first one that shows its image, itself where none does before.
    """
    from scipy.spatial import cKDTree

    points, first, member = np.unique(
        sketches.astype(np.float32), axis=0, return_index=True, return_inverse=True
    )
    answers = logits[first].astype(np.float64)
    answers -= answers.mean(axis=1, keepdims=True)  # a constant changes no answer
    near = SAME_LEVELS * _UNIT * np.sqrt(SKETCH)
    close = _SAME_ANSWER * float(np.sqrt(np.square(answers).sum(axis=1).mean()))
    leader = np.arange(len(points))
    tree = cKDTree(points)
    distance, _ = tree.query(points, k=[2], distance_upper_bound=near)
    free = np.isfinite(distance[:, 0])
    for index in np.flatnonzero(free):
        if not free[index]:
            continue
        around = np.array(tree.query_ball_point(points[index], near))
        apart = np.sqrt(np.square(answers[around] - answers[index]).sum(axis=1))
        members = around[free[around] & (apart <= close)]
        leader[members] = index
        free[members] = False
        free[index] = False
    groups = leader[member.reshape(-1)]
    _, starts, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return starts[inverse.reshape(-1)].astype(np.int64)


def contradicted_samples(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Samples whose image is there under more than one label.

    Args:
        groups: ``(N,)``, as :func:`same_images` gives them.
        labels: ``(N,)``.

    Returns:
        ``(N,) bool``.
    """
    lowest = np.full(len(groups), np.iinfo(np.int64).max)
    highest = np.full(len(groups), np.iinfo(np.int64).min)
    np.minimum.at(lowest, groups, labels)
    np.maximum.at(highest, groups, labels)
    return np.asarray(lowest[groups] != highest[groups])
