"""Preprocessing holds its order, its stored values, its checks and its round trip."""

import dataclasses
import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.preprocess import Preprocess
from edgeres.data.setting_values import MAX_SIDE
from edgeres.errors import DataError, EdgeResError, UsageError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

GOLDEN_FIT = [
    [[90, 132, 98], [127, 127, 98], [164, 132, 98], [201, 128, 98]],
    [[90, 127, 72], [127, 122, 72], [164, 128, 72], [201, 122, 72]],
    [[90, 127, 46], [127, 131, 46], [164, 127, 46], [201, 132, 46]],
]
GOLDEN_BITS = [["c0078bbd", "3d6939a6"], ["c0012a4f", "3e521b48"], ["bfe281cc", "4028f5c3"]]
GOLDEN_SHA256 = [
    (256, 224, "5ae302523ed586ce"),
    (232, 224, "b854a8063cc975d9"),
    ((48, 96), None, "c679a66cac8214ea"),
    ((57, 31), (30, 31), "36dc1a5b4c2b7081"),
    (None, 224, "fff4fe386111a5fc"),
    (None, (37, 400), "1c7fcf6f732b0dfb"),
    (33, 64, "d54f97bd3b215116"),
    (400, (401, 399), "c8182a66e6bb6bc8"),
]


def test_golden_values_of_resize_and_crop(photograph):
    """Made by Pillow 13.0 and equal to torchvision 0.28 when they were stored."""
    got = Preprocess(resize=5, crop=(3, 4)).fit(photograph(40, 56))
    assert got.shape == (3, 4, 3)
    assert got.tolist() == GOLDEN_FIT


@pytest.mark.parametrize(("resize", "crop", "sha256"), GOLDEN_SHA256)
def test_golden_digests_of_resize_and_crop(photograph, resize, crop, sha256):
    """Made by Pillow 13.0; test_preprocess_torchvision.py holds the same cases to torchvision."""
    fitted = Preprocess(resize=resize, crop=crop).fit(photograph(333, 500))
    assert hashlib.sha256(fitted.tobytes()).hexdigest()[:16] == sha256


def test_golden_values_of_the_arithmetic():
    image = Image.fromarray(np.array([[[0, 1, 2], [127, 128, 255]]], dtype=np.uint8))
    got = Preprocess(**IMAGENET).apply(image)
    bits = [[f"{value:08x}" for value in row] for row in got[:, 0].view(np.uint32).tolist()]
    assert bits == GOLDEN_BITS


def test_the_order_is_scale_then_mean_then_std_for_channels_in_network_order():
    image = Image.fromarray(np.array([[[10, 20, 30]]], dtype=np.uint8))
    preprocess = Preprocess(
        scale=0.5, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0), channel_order="bgr"
    )
    assert preprocess.apply(image).ravel().tolist() == [(15 - 1) / 2, (10 - 2) / 4, (5 - 3) / 8]


def test_nhwc_is_the_same_numbers_channels_last(photograph):
    image = photograph(9, 7)
    first = Preprocess(**IMAGENET)
    last = dataclasses.replace(first, layout="nhwc")
    got = last.apply(image)
    assert got.shape == (9, 7, 3)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, first.apply(image).transpose(1, 2, 0))


def test_one_channel_takes_luma_before_resizing():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    preprocess = Preprocess(scale=1, channels=1)
    assert preprocess.apply(Image.fromarray(colours)).ravel().tolist() == [76, 150, 29, 255]


def test_grey_fills_three_channels():
    image = Image.fromarray(np.array([[7, 9]], dtype=np.uint8))
    assert Preprocess(scale=1).apply(image)[:, 0].tolist() == [[7, 9]] * 3


def test_a_crop_larger_than_the_image_adds_black():
    image = Image.new("L", (1, 2), 200)
    got = Preprocess(scale=1, channels=1, crop=4).fit(image)
    assert got.tolist() == [[0, 0, 0, 0], [0, 200, 0, 0], [0, 200, 0, 0], [0, 0, 0, 0]]


def test_a_thin_image_cannot_blow_up_memory():
    image = Image.new("L", (1001, 1))
    with pytest.raises(DataError, match="after resizing"):
        Preprocess(resize=256).fit(image)


def test_keeps_pixels_only_where_nothing_changes():
    assert Preprocess().keeps_pixels(28, 28)
    assert Preprocess(resize=28, crop=28).keeps_pixels(28, 28)
    assert not Preprocess(resize=28).keeps_pixels(56, 56)
    assert not Preprocess(crop=24).keeps_pixels(28, 28)
    assert not Preprocess(crop=32).keeps_pixels(28, 28)
    # resized and cropped back to the same size is not the same picture
    assert not Preprocess(resize=32, crop=28).keeps_pixels(28, 28)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"scale": 0}, "scale"),
        ({"scale": math.nan}, "scale"),
        ({"scale": "1/255"}, "scale"),
        ({"scale": True}, "scale"),
        ({"scale": 10**400}, "scale"),
        ({"mean": 0.5}, "mean"),
        ({"mean": []}, "mean"),
        ({"mean": [0.1, 0.2]}, "mean"),
        ({"mean": ["a"]}, "mean"),
        ({"std": [0.0]}, "std"),
        ({"std": [-1.0, 1.0, 1.0]}, "std"),
        ({"std": [math.inf]}, "std"),
        ({"std": [1e-46]}, "scale, mean and std"),
        ({"scale": 1e39}, "scale, mean and std"),
        ({"resize": 0}, "resize"),
        ({"resize": 2.5}, "resize"),
        ({"resize": True}, "resize"),
        ({"resize": [1, 2, 3]}, "resize"),
        ({"resize": MAX_SIDE + 1}, "resize"),
        ({"crop": [224, -1]}, "crop"),
        ({"crop": "224"}, "crop"),
        ({"channel_order": "gbr"}, "channel_order"),
        ({"channel_order": ["rgb"]}, "channel_order"),
        ({"layout": "chw"}, "layout"),
        ({"channels": 0}, "channels"),
        ({"channels": 4, "channel_order": "bgr"}, "channel_order"),
        ({"channels": 3.0}, "channels"),
        ({"channels": 1, "channel_order": "bgr"}, "channel_order"),
        ({"channels": 1, "mean": [0.1, 0.2, 0.3]}, "mean"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(values, field):
    with pytest.raises(UsageError, match=f"`{field}") as caught:
        Preprocess.from_dict(values)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(UsageError, match="'means'") as caught:
        Preprocess.from_dict({"means": [0.5]})
    assert "'mean'" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 100_000])
def test_damaged_json_is_bad_data(text):
    with pytest.raises(DataError, match="preprocess settings"):
        Preprocess.from_json(text)


sides = st.integers(1, 64)
sizes = st.one_of(st.none(), sides, st.tuples(sides, sides))
finite = st.floats(-1e3, 1e3)
positive = st.floats(1e-3, 1e3)


@st.composite
def preprocesses(draw):
    channels = draw(st.sampled_from([1, 3]))
    return Preprocess(
        scale=draw(positive),
        mean=tuple(draw(st.lists(finite, min_size=channels, max_size=channels))),
        std=tuple(draw(st.lists(positive, min_size=channels, max_size=channels))),
        resize=draw(sizes),
        crop=draw(sizes),
        channel_order=draw(st.sampled_from(["rgb", "bgr"] if channels == 3 else ["rgb"])),
        layout=draw(st.sampled_from(["nchw", "nhwc"])),
        channels=channels,
    )


@st.composite
def images(draw):
    height, width = draw(st.tuples(sides, sides))
    seed = draw(st.integers(0, 2**32 - 1))
    depth = draw(st.sampled_from([(), (3,)]))
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *depth), dtype=np.uint8)
    return Image.fromarray(pixels)


@settings(deadline=None)
@given(preprocesses())
def test_round_trip_through_json(preprocess):
    text = preprocess.to_json()
    again = Preprocess.from_json(text)
    assert again == preprocess
    assert hash(again) == hash(preprocess)
    assert again.to_json() == text
    assert Preprocess.from_dict(json.loads(text)) == preprocess


@settings(deadline=None)
@given(preprocesses(), images())
def test_shape_and_formula_hold_for_every_setting(preprocess, image):
    fitted = preprocess.fit(image)
    assert fitted.shape[:2] == preprocess.output_size(image.height, image.width)
    got = preprocess.apply(image)
    if preprocess.layout == "nhwc":
        got = got.transpose(2, 0, 1)
    planes = fitted[None] if fitted.ndim == 2 else fitted.transpose(2, 0, 1)
    if preprocess.channel_order == "bgr":
        planes = planes[::-1]
    scaled = (planes.astype(np.float64) * preprocess.scale).astype(np.float32)
    mean = np.array(preprocess.mean, dtype=np.float32)[:, None, None]
    std = np.array(preprocess.std, dtype=np.float32)[:, None, None]
    np.testing.assert_array_equal(got, (scaled - mean) / std)


@settings(deadline=None)
@given(preprocesses(), images())
def test_keeping_pixels_means_that_fit_returns_them(preprocess, image):
    preprocess = dataclasses.replace(
        preprocess, resize=(image.height, image.width) if preprocess.resize else None, crop=None
    )
    assert preprocess.keeps_pixels(image.height, image.width)
    mode = "L" if preprocess.channels == 1 else "RGB"
    np.testing.assert_array_equal(preprocess.fit(image), np.asarray(image.convert(mode)))


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([field.name for field in dataclasses.fields(Preprocess)]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=4),
            max_leaves=6,
        ),
    )
)
def test_any_json_value_is_taken_or_refused_with_our_error(values):
    try:
        preprocess = Preprocess.from_dict(values)
    except EdgeResError:
        return
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
