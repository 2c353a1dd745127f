"""Makes the Fashion-MNIST files in calibration/ from the full set; the same bytes every time.

Usage: python scripts/make_calibration.py [--source FOLDER] [--output FOLDER] [--check]

FOLDER holds the four IDX files of Fashion-MNIST, as the Debian package dataset-fashion-mnist
installs them. The rule of selection is in calibration/README.md.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import struct
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.data.fashion_mnist import TRAINING_FOLDER, TRAINING_IMAGES, TRAINING_LABELS
from edgeres.data.idx import read_idx_images, read_idx_labels

SAMPLES = 1024
CLASSES = 10


def select_calibration(
    images: NDArray[np.uint8], labels: NDArray[np.int64], test_images: NDArray[np.uint8]
) -> list[int]:
    """Indices of the calibration sample in the training split, in the order they are stored.

    Position ``i`` of the sample takes class ``i % 10``: the first image of that class, in the order
    of the file, that was not taken before and whose pixels are in no test image and in no image
    taken before. So the first ``n`` images are balanced to within one for every ``n``.
    """
    taken = {image.tobytes() for image in test_images}
    waiting = [iter(np.flatnonzero(labels == label).tolist()) for label in range(CLASSES)]
    chosen: list[int] = []
    for position in range(SAMPLES):
        for index in waiting[position % CLASSES]:
            content = images[index].tobytes()
            if content not in taken:
                taken.add(content)
                chosen.append(index)
                break
    return chosen


def encode_idx(values: NDArray[np.uint8]) -> bytes:
    """IDX bytes of an array of unsigned bytes."""
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + np.ascontiguousarray(values).tobytes()


def compress(data: bytes) -> bytes:
    """Gzip without a time stamp or a name; the bytes still depend on the zlib that made them."""
    stream = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=stream, mtime=0) as packed:
        packed.write(data)
    return stream.getvalue()


def make_files(source: Path) -> dict[str, bytes]:
    """Name to uncompressed content of the four files."""
    images = read_idx_images(source / TRAINING_IMAGES)
    labels = read_idx_labels(source / TRAINING_LABELS)
    test_images = read_idx_images(source / "t10k-images-idx3-ubyte.gz")
    test_labels = read_idx_labels(source / "t10k-labels-idx1-ubyte.gz")
    chosen = select_calibration(images, labels, test_images)
    return {
        "fmnist-test-images.idx3-ubyte.gz": encode_idx(test_images),
        "fmnist-test-labels.idx1-ubyte.gz": encode_idx(test_labels.astype(np.uint8)),
        "fmnist-calibration-images.idx3-ubyte.gz": encode_idx(images[chosen]),
        "fmnist-calibration-labels.idx1-ubyte.gz": encode_idx(labels[chosen].astype(np.uint8)),
    }


def main() -> int:
    """Writes the files and their sums, or with ``--check`` compares the stored content."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=TRAINING_FOLDER)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent.parent / "calibration"
    )
    parser.add_argument("--check", action="store_true", help="only compare, write nothing")
    arguments = parser.parse_args()
    files = make_files(arguments.source)
    if arguments.check:
        wrong = [
            name
            for name, content in files.items()
            if gzip.decompress((arguments.output / name).read_bytes()) != content
        ]
        print(f"differ: {', '.join(wrong)}" if wrong else "all four files agree")
        return 1 if wrong else 0
    packed_sums, content_sums = [], []
    for name, content in files.items():
        packed = compress(content)
        (arguments.output / name).write_bytes(packed)
        packed_sums.append(f"{hashlib.sha256(packed).hexdigest()}  {name}\n")
        content_sums.append(f"{hashlib.sha256(content).hexdigest()}  {name.removesuffix('.gz')}\n")
    (arguments.output / "SHA256SUMS").write_text("".join(packed_sums))
    (arguments.output / "SHA256SUMS.content").write_text("".join(content_sums))
    print(f"wrote {len(files)} files and their sums to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
