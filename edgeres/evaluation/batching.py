"""Does an image get the same answer whatever shares its batch?

Accuracy is measured in batches of a hundred; what is deployed mostly runs one image at a time. A
network that normalizes over its batch, or an engine that is right at one batch size only, would
pass the one and fail the other. So a few images of the set, spread over all of it and the last ones
among them, are answered again alone and in other batches.

Engines choose other kernels for other batches, so equal bits cannot be asked for. Sums in another
order move an INT8 value by a step at most; the limits leave that much room and no more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import ModelError
from edgeres.evaluation.passes import in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeres.backends.base import Array, BatchLimits

SIZES = (1, 2, 3, 5, 8, 16, 33)
"""Batches that are tried, as far as engine and memory take them: 68 images and a few alone."""
_ALONE = 4  # images that are tried alone
_KEPT = 48
_KEPT_BYTES = 64 << 20
_MIN_DB = 20.0  # over all images of a batch
_MIN_IMAGE_DB = 14.0  # for the worst of them


class BatchWatch:
    """Keeps some images and their answers while a data set goes by.

    Args:
        total: Images of the set.
    """

    def __init__(self, total: int) -> None:
        self._wanted = {round(place) for place in np.linspace(0, total - 1, min(total, _KEPT))}
        self._seen = 0
        self._bytes = 0
        self._images: list[Array] = []
        self._rows: list[NDArray[np.float32]] = []
        self._last: tuple[Array, NDArray[np.float32]] | None = None

    def saw(self, images: Array, rows: NDArray[np.float32]) -> None:
        """Notes a batch, ``(N, ...)``, and its answers, ``(N, K)``."""
        for index, (image, row) in enumerate(zip(images, rows, strict=True)):
            if self._seen + index in self._wanted and self._bytes + image.nbytes <= _KEPT_BYTES:
                self._images.append(image.copy())
                self._rows.append(row)
                self._bytes += image.nbytes
        self._seen += len(images)
        # The last batch may be a smaller one, whatever was left out before it.
        self._last = images[-1].copy(), rows[-1]

    def check(
        self, answer: Callable[[Array], NDArray[np.float32]], limits: BatchLimits, who: str
    ) -> None:
        """Answers what was kept again, in other batches and in another order.

        Args:
            answer: Runs ``(N, ...)`` images, for any N, as one batch where the engine takes it.
            limits: Which batches those are.
            who: What answers, for the message.

        Raises:
            ModelError: The answers depend on the batch.
        """
        if self._last is None:
            return
        images = np.stack([self._last[0], *self._images])
        rows = np.stack([self._last[1], *self._rows]).astype(np.float64)
        keep = np.isfinite(rows).all(axis=1)  # NaN is told elsewhere
        images, rows = images[keep], rows[keep]
        if not len(rows):
            return
        signal = float(np.square(rows - rows.mean(axis=0)).sum(axis=1).mean())
        # Equal answers to all leave nothing to compare with but themselves.
        signal = max(signal, 1e-6 * float(np.square(rows).sum(axis=1).mean()))
        order = np.random.default_rng(0).permutation(len(rows))
        alone = order[: _ALONE - 1]
        most = in_memory(len(rows), images.shape)
        sizes = {limits.fit(min(size, most)) for size in SIZES}
        single_images = [(1, np.array([0])), *((1, alone[i : i + 1]) for i in range(len(alone)))]
        parts = single_images if 1 in sizes else []
        parts += [(size, order[:size]) for size in sorted(sizes - {1})]
        noise: dict[int, list[float]] = {}
        for size, part in parts:
            answers = answer(images[part]).astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                apart = np.square(answers - rows[part]).sum(axis=1)
            noise.setdefault(size, []).extend(np.where(np.isfinite(apart), apart, np.inf))
        for size, energies in noise.items():
            overall, worst = _db(signal, float(np.mean(energies))), _db(signal, max(energies))
            if overall < _MIN_DB or worst < _MIN_IMAGE_DB:
                differing = sum(_db(signal, value) < _MIN_IMAGE_DB for value in energies)
                raise ModelError(
                    f"{who}: the answers depend on the batch: in a batch of {size}, "
                    f"{max(differing, 1)} of {len(energies)} images are answered otherwise than "
                    f"among the whole set ({min(overall, worst):.1f} dB).",
                    hint="Something is computed over the batch, or for one batch size only; export "
                    "the network in evaluation mode with a free batch and build the engine anew.",
                )


def _db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 and math.isfinite(noise) else -math.inf
