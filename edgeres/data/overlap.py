"""Finds images that are in two data sets, by their decoded pixels, not by their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice

import numpy as np

from edgeres.data.types import Dataset, Sample
from edgeres.errors import DataError
from edgeres.system.progress import ProgressCallback

DIGEST_BYTES = 16
CHUNK = 256


def find_overlap(
    calibration: Dataset,
    validation: Dataset,
    *,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> list[tuple[int, int]]:
    """Finds the calibration images that are also in the validation set.

    Two images are the same if their size and decoded pixels are, whatever the file format or name;
    grey stored as colour equals grey. Another compression or scale of a photograph is not found.
    Images that cannot be decoded are passed over.

    Args:
        calibration: The smaller set.
        validation: The other set; every image of it is decoded.
        workers: Threads that decode.
        progress: Called with images done and in all.

    Returns:
        Pairs (index in ``calibration``, index in ``validation``), the first match of each
        calibration image, in calibration order.
    """
    total = len(calibration) + len(validation)
    digests: list[bytes | None] = []
    for digest in chain(_digests(calibration, workers), _digests(validation, workers)):
        digests.append(digest)
        if progress is not None:
            progress(len(digests), total)
    place: dict[bytes, int] = {}
    for index, digest in enumerate(digests[len(calibration) :]):
        if digest is not None:
            place.setdefault(digest, index)
    pairs = enumerate(digests[: len(calibration)])
    return [(index, place[d]) for index, d in pairs if d is not None and d in place]


def pixel_digest(image: Sample) -> bytes:
    """Digest of an image's size and pixels; grey in mode ``RGB`` gives that of mode ``L``."""
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.dtype == np.uint8 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _digests(dataset: Dataset, workers: int) -> Iterator[bytes | None]:
    """Digest of each image in order, ``None`` for one that cannot be decoded."""

    def digest(index: int) -> bytes | None:
        try:
            return pixel_digest(dataset.image(index))
        except DataError:
            return None

    order = iter(range(len(dataset)))
    if workers == 0:
        yield from map(digest, order)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="edgeres-digest") as pool:
        while part := list(islice(order, CHUNK)):
            yield from pool.map(digest, part)
