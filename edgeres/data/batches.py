"""Batches of preprocessed images or of features, in order, from any data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from edgeres.data.arrays import ArrayDataset
from edgeres.data.bad_images import BadImages
from edgeres.data.preprocess import Fitted, Preprocess
from edgeres.data.types import Dataset
from edgeres.errors import DataError, UsageError

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Images and one number for each: its label, or its place in the set."""

IMAGES_AHEAD = 8
"""Images that each worker may decode ahead of the batch that is being filled."""


def batches(
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    *,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    workers: int = 0,
    skipped: BadImages | None = None,
) -> Iterator[Batch]:
    """Yields preprocessed images and their labels; see :func:`numbered_batches`.

    Returns:
        Images ``(N, C, H, W) float32`` (``(N, H, W, C)`` with layout ``nhwc``) and labels
        ``(N,) int64``.
    """
    numbered = numbered_batches(
        dataset, preprocess, batch_size, indices=indices, workers=workers, skipped=skipped
    )
    return ((images, dataset.labels[rows]) for images, rows in numbered)


def numbered_batches(
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    *,
    indices: Sequence[int] | NDArray[np.int64] | None = None,
    workers: int = 0,
    skipped: BadImages | None = None,
    in_bytes: bool = False,
) -> Iterator[Batch]:
    """Yields preprocessed images and which ones they are.

    Args:
        dataset: Where the images come from. Images that are in memory in the network's size take a
            path without Pillow.
        preprocess: What happens to each image.
        batch_size: Images in a batch; only the last batch may have fewer.
        indices: Which images, in this order; by default all.
        workers: Threads that decode ahead; 0 decodes in the caller's thread. The batches are the
            same for any number.
        skipped: Collects the images that cannot be decoded, which are then left out. Without it the
            first of them raises.
        in_bytes: Whether pixels that the preprocessing leaves as they are come as ``uint8``, for an
            engine that takes those. Any others come as floats.

    Yields:
        Images ``(N, C, H, W) float32`` (``(N, H, W, C)`` with layout ``nhwc``), or features
        ``(N, ...) float32`` as they are; and their places in the set ``(N,) int64``.

    Raises:
        UsageError: ``batch_size`` under 1, ``workers`` under 0, or an index out of range.
        DataError: No images, a bad image (see ``skipped``), or images of different sizes where
            neither resize nor crop makes them equal.
    """
    if batch_size < 1 or workers < 0:
        raise UsageError(
            f"Expected a batch size of at least 1 and workers of at least 0, got {batch_size} and "
            f"{workers}."
        )
    rows = np.arange(len(dataset)) if indices is None else np.asarray(indices, dtype=np.int64)
    if len(rows) == 0:
        raise DataError(f"Expected images in {dataset.name}, got none.")
    if rows.min() < 0 or rows.max() >= len(dataset):
        raise UsageError(
            f"Expected indices in 0 to {len(dataset) - 1} for {dataset.name}, got "
            f"{rows.min()} to {rows.max()}."
        )
    if isinstance(dataset, ArrayDataset) and _is_direct(dataset, preprocess):
        return _from_array(dataset, preprocess, batch_size, rows, in_bytes=in_bytes)
    return _from_images(
        dataset,
        preprocess,
        batch_size,
        rows,
        workers=workers,
        skipped=skipped,
        in_bytes=in_bytes,
    )


def _is_direct(dataset: ArrayDataset, preprocess: Preprocess) -> bool:
    """Tells whether the pixels in memory are already what resize and crop would give."""
    if preprocess.features or preprocess.log_mel is not None:
        return False  # which no images are
    height, width = dataset.images.shape[1:3]
    grey = dataset.images.ndim == 3
    alike = (
        preprocess.channels in (1, 3) if grey else preprocess.channels == dataset.images.shape[3]
    )
    return preprocess.keeps_pixels(height, width) and alike


def _from_array(
    dataset: ArrayDataset,
    preprocess: Preprocess,
    batch_size: int,
    rows: NDArray[np.int64],
    *,
    in_bytes: bool,
) -> Iterator[Batch]:
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        yield _batch(preprocess, dataset.images[part], in_bytes=in_bytes), part


def _batch(
    preprocess: Preprocess, fitted: Sequence[Fitted] | NDArray[np.uint8], *, in_bytes: bool
) -> NDArray[np.float32]:
    """As :meth:`Preprocess.batch`; pixels that stay what they are may come as bytes."""
    if not (in_bytes and preprocess.keeps_numbers):
        return preprocess.batch(fitted)
    pixels = np.stack(fitted) if isinstance(fitted, Sequence) else fitted
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    pixels = np.broadcast_to(pixels, (*pixels.shape[:3], preprocess.channels))
    if preprocess.channel_order == "bgr":
        pixels = pixels[..., ::-1]
    if preprocess.layout == "nchw":
        pixels = pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels)


def _from_images(
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    rows: NDArray[np.int64],
    *,
    workers: int,
    skipped: BadImages | None,
    in_bytes: bool,
) -> Iterator[Batch]:
    pixels: list[Fitted] = []
    batch_rows: list[int] = []
    shape: tuple[int, ...] | None = None
    for index, fitted in _fitted(dataset, preprocess, rows, workers):
        if isinstance(fitted, DataError):
            if skipped is None:
                raise fitted
            skipped.add(dataset.image_name(index), fitted, len(rows))
            continue
        shape = shape or fitted.shape
        if fitted.shape != shape:
            raise DataError(
                f"Expected every sample of {dataset.name} in the size of the first, {shape}, "
                f"got {fitted.shape} for {dataset.image_name(index)}.",
                hint="Images need a crop or an exact resize [height, width]; features one shape.",
            )
        pixels.append(fitted)
        batch_rows.append(index)
        if len(pixels) == batch_size:
            yield (
                _batch(preprocess, pixels, in_bytes=in_bytes),
                np.array(batch_rows, dtype=np.int64),
            )
            pixels, batch_rows = [], []
    if pixels:
        yield _batch(preprocess, pixels, in_bytes=in_bytes), np.array(batch_rows, dtype=np.int64)
    elif shape is None:
        raise DataError(f"Expected images in {dataset.name}, got none that can be decoded.")


def _fitted(
    dataset: Dataset, preprocess: Preprocess, rows: NDArray[np.int64], workers: int
) -> Iterator[tuple[int, Fitted | DataError]]:
    """Decodes and fits the chosen images in order, with threads that stay a few images ahead."""

    def fit(index: int) -> Fitted | DataError:
        try:
            return preprocess.fit_sample(dataset.image(index))
        except DataError as error:
            return error

    order = [int(index) for index in rows]
    if workers == 0 or len(order) == 1:  # threads for one image only cost time
        for index in order:
            yield index, fit(index)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeres-decode")
    ahead: deque[tuple[int, Future[Fitted | DataError]]] = deque()
    try:
        for index in order:
            ahead.append((index, pool.submit(fit, index)))
            if len(ahead) > workers * IMAGES_AHEAD:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
