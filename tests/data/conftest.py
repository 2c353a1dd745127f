"""What the tests of data share: torchvision as the reference, and images from a formula."""

import importlib
import importlib.util
import sys

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def torchvision():
    """The torchvision package; its two C++ operators need a declaration beside a CPU torch."""
    if "torchvision" in sys.modules:
        yield sys.modules["torchvision"]
        return
    if importlib.util.find_spec("torchvision") is None or importlib.util.find_spec("torch") is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0")
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # undeclared when it is collected
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield importlib.import_module("torchvision")
    del library


@pytest.fixture(scope="session")
def photograph():
    """Makes an RGB image of a size from a formula: edges, gradients and fine texture."""

    def make(height: int, width: int) -> Image.Image:
        y, x = np.mgrid[0:height, 0:width].astype(np.int64)
        red = (x * 255) // max(width - 1, 1)
        green = ((x * 7919 + y * 104729) >> 3) & 255
        blue = np.where((x // 5 + y // 3) % 2 == 0, 255 - (y * 255) // max(height - 1, 1), 16)
        return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))

    return make
