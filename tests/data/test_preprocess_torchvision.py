"""Preprocessing gives the bits of torchvision's transforms on Pillow images."""

import numpy as np
import pytest
from PIL import Image

from edgeres.data.preprocess import Preprocess

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
STATISTICS = [
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.286, 0.1307, 1 / 3), (0.353, 0.3081, 2 / 3)),
]


def reference(torchvision, image, *, resize=None, crop=None, mean, std):
    transforms = torchvision.transforms
    steps = []
    if resize is not None:
        steps.append(transforms.Resize(resize, transforms.InterpolationMode.BILINEAR))
    if crop is not None:
        steps.append(transforms.CenterCrop(crop))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose(steps)(image).numpy()


@pytest.mark.parametrize(("mean", "std"), STATISTICS)
def test_all_256_values_are_bit_exact(torchvision, mean, std):
    image = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))
    expected = reference(torchvision, image, mean=mean, std=std)
    got = Preprocess(mean=mean, std=std).apply(image)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def test_all_256_grey_values_are_bit_exact(torchvision):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    expected = reference(torchvision, image, mean=(0.286,), std=(0.353,))
    got = Preprocess(mean=(0.286,), std=(0.353,), channels=1).apply(image)
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("size", [(256, 320), (333, 500), (500, 333), (224, 224), (61, 47), (1, 9)])
@pytest.mark.parametrize(
    ("resize", "crop"),
    [
        (256, 224),
        (232, 224),
        (64, None),
        ((48, 96), None),
        ((57, 31), (30, 31)),
        (None, 224),
        (None, (37, 400)),
        (33, 64),
        (400, (401, 399)),
        (50, 33),
        (51, (20, 33)),
    ],
)
def test_resize_and_crop_are_bit_exact(torchvision, photograph, size, resize, crop):
    image = photograph(*size)
    expected = reference(torchvision, image, resize=resize, crop=crop, **IMAGENET)
    got = Preprocess(resize=resize, crop=crop, **IMAGENET).apply(image)
    np.testing.assert_array_equal(got, expected)
    assert Preprocess(resize=resize, crop=crop).output_size(*size) == got.shape[1:]


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_other_modes_are_bit_exact_with_convert_rgb(torchvision, photograph, mode):
    image = photograph(70, 90).convert(mode)
    expected = reference(torchvision, image.convert("RGB"), resize=32, crop=28, **IMAGENET)
    np.testing.assert_array_equal(Preprocess(resize=32, crop=28, **IMAGENET).apply(image), expected)
