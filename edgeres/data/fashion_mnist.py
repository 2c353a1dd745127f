"""Fashion-MNIST: test images and a calibration sample come with edgeres, training images do not.

H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine
learning algorithms", 2017, arXiv:1708.07747. 28x28 grey, ten classes, MIT licence (Zalando SE).
"""

from __future__ import annotations

from pathlib import Path

from edgeres.data.arrays import ArrayDataset
from edgeres.data.idx import read_idx_images, read_idx_labels
from edgeres.data.types import Split
from edgeres.errors import DataError
from edgeres.system.assets import asset_path

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

TRAINING_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian and Ubuntu package ``dataset-fashion-mnist`` puts the full set."""

TRAINING_IMAGES = "train-images-idx3-ubyte.gz"
TRAINING_LABELS = "train-labels-idx1-ubyte.gz"

TRAINING_FINGERPRINT = "1260832e7fdbd089f38b5301dc21c43e7c2a7f1ddca2c245d36bc5276f53f640"
"""Fingerprint of the published training split: it is known where the images are not."""

TRAINING_LABEL_COUNTS = (6000,) * 10
"""Training images of each class, likewise."""


def open_fashion_mnist(split: Split, *, folder: Path = TRAINING_FOLDER) -> ArrayDataset:
    """Opens a part of Fashion-MNIST.

    Args:
        split: ``validation``: the 10,000 test images, embedded. ``calibration``: 1,024 images of
            the training split, embedded, class after class in turn, so that the first ``n`` are
            balanced for every ``n``. ``train``: the 60,000 training images, from ``folder``.
        folder: Where the IDX files of the training split lie.

    Raises:
        DataError: The training split is asked for and not on this machine, or a file is damaged.
    """
    if split == "train":
        images, labels = folder / TRAINING_IMAGES, folder / TRAINING_LABELS
        if not images.is_file() or not labels.is_file():
            raise DataError(
                f"Expected {TRAINING_IMAGES} and {TRAINING_LABELS} in {str(folder)!r}, which do "
                "not come with edgeres.",
                hint="On Debian or Ubuntu: apt-get install dataset-fashion-mnist; elsewhere "
                "download them and give idx:IMAGES,LABELS.",
            )
    else:
        part = "test" if split == "validation" else "calibration"
        images = asset_path("calibration", f"fmnist-{part}-images.idx3-ubyte.gz")
        labels = asset_path("calibration", f"fmnist-{part}-labels.idx1-ubyte.gz")
    dataset = ArrayDataset(
        f"fashion-mnist/{split}", read_idx_images(images), read_idx_labels(labels), CLASS_NAMES
    )
    if split == "train" and dataset.fingerprint != TRAINING_FINGERPRINT:
        raise DataError(
            f"{images}: not the published training split of Fashion-MNIST.",
            hint=f"For other images say idx:{images},{labels}.",
        )
    return dataset
