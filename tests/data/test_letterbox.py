"""Letterbox and resizing without antialiasing, against Pillow's and torch's own definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgeres.data.geometry import contained_size
from edgeres.data.masks import fit_mask
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, UsageError
from edgeres.recipe.preprocess import PreprocessBlock

SIZES = [(37, 61), (61, 37), (40, 40), (224, 500), (13, 200), (300, 301)]
BOXES = [(32, 32), (64, 48), (48, 64), (224, 224)]


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(height * width)
    coarse = rng.integers(0, 256, (7, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", SIZES)
def test_a_letterbox_is_pillows_pad(size, box, mode) -> None:
    image = picture(*size, mode)
    channels = 1 if mode == "L" else 3
    preprocess = Preprocess(
        letterbox=box, letterbox_fill=99, channels=channels, interpolation="bicubic"
    )
    colour = 99 if channels == 1 else (99,) * 3
    expected = ImageOps.pad(image, box[::-1], Image.Resampling.BICUBIC, color=colour)
    np.testing.assert_array_equal(preprocess.fit(image), np.asarray(expected))
    assert preprocess.output_size(*size) == box
    assert contained_size(*size, box) == ImageOps.contain(image, box[::-1]).size[::-1]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 30), (64, 48), (200, 333)])
@pytest.mark.parametrize("before", [(37, 61), (224, 500)])
def test_without_antialiasing_pixels_are_torchs(before, size, interpolation) -> None:
    torch = pytest.importorskip("torch")
    image = picture(*before)
    fitted = Preprocess(resize=size, interpolation=interpolation, antialias=False).fit(image)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    exact = torch.nn.functional.interpolate(
        tensor, size, mode=interpolation, align_corners=False, antialias=False
    )
    expected = exact.round().clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()
    apart = np.abs(fitted.astype(int) - expected.astype(int))
    halves = np.abs(exact[0].permute(1, 2, 0).numpy() % 1 - 0.5) < 1e-3
    assert (apart[~halves] == 0).all()  # a half may be rounded either way
    assert apart.max() <= 1
    smooth = Preprocess(resize=size, interpolation=interpolation).fit(image)
    assert (smooth != fitted).any()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_torchvision_on_tensors_gives_the_same(torchvision, interpolation) -> None:
    import torch

    image = picture(120, 90)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
    mode = torchvision.transforms.InterpolationMode(interpolation)
    resize = torchvision.transforms.Resize((50, 40), mode, antialias=False)
    expected = resize(tensor).round().clamp(0, 255).permute(1, 2, 0).numpy().astype(int)
    fitted = Preprocess(resize=(50, 40), interpolation=interpolation, antialias=False).fit(image)
    assert (np.abs(fitted - expected) <= 1).all()  # a half may be rounded either way
    assert (fitted == expected).mean() > 0.99


def test_grey_images_and_single_lines_are_resized_plainly() -> None:
    fitted = Preprocess(resize=(3, 5), antialias=False, channels=1).fit(picture(1, 9, "L"))
    assert fitted.shape == (3, 5)
    assert (fitted == fitted[0]).all()
    same = picture(12, 15)
    kept = Preprocess(resize=(12, 15), antialias=False).fit(same)
    np.testing.assert_array_equal(kept, np.asarray(same))


def test_a_mask_goes_into_the_letterbox_and_is_ignored_around() -> None:
    mask = np.full((20, 40), 3, np.int32)
    fitted = fit_mask(mask, Preprocess(letterbox=40, letterbox_fill=7))
    assert fitted.shape == (40, 40)
    assert (fitted[10:30] == 3).all()
    assert (fitted[:10] == 255).all()
    assert (fitted[30:] == 255).all()


def test_what_makes_no_sense_is_told() -> None:
    for values, told in (
        ({"letterbox": 32, "resize": 32}, "letterbox"),
        ({"letterbox": 32, "crop": 32}, "letterbox"),
        ({"letterbox": 0}, "letterbox"),
        ({"letterbox_fill": 256}, "letterbox_fill"),
        ({"interpolation": "lanczos", "antialias": False}, "antialias"),
        ({"antialias": 1}, "antialias"),
    ):
        with pytest.raises(UsageError, match=told):
            Preprocess(**values)
        with pytest.raises(UsageError, match=told):
            PreprocessBlock(**values)
    with pytest.raises(DataError, match="less than one pixel"):
        Preprocess(letterbox=32).fit(picture(1, 900))


def test_settings_travel_and_old_ones_stay_as_they_were(tmp_path: Path) -> None:
    plain = Preprocess()
    assert not {"antialias", "letterbox", "letterbox_fill"} & plain.to_dict().keys()
    boxed = PreprocessBlock(letterbox=[24, 32], letterbox_fill=5, antialias=False).complete()
    assert Preprocess.from_json(boxed.to_json()) == boxed
    assert json.loads(boxed.to_json())["letterbox"] == [24, 32]


def test_a_setting_that_only_the_baseline_had_is_told(tmp_path: Path) -> None:
    from edgeres.evaluation.preprocess_check import preprocess_differs

    (tmp_path / "preprocess.json").write_text(Preprocess(letterbox=32).to_json())
    assert "letterbox is None here and 32 in" in preprocess_differs(tmp_path, Preprocess())
