"""What samples look like on a page, whatever they are."""

from __future__ import annotations

import numpy as np

from edgeres.data.features import Features
from edgeres.data.log_mel import LogMel
from edgeres.data.preprocess import Preprocess
from edgeres.data.sound import Sound
from edgeres.report.pictures import picture_of

MEL = LogMel(8000, 0.5, 256, None, 100, 20)


def test_a_tone_is_a_bright_line_as_high_as_it_sounds():
    time = np.arange(4000) / 8000
    heights = []
    for tone in (300.0, 3000.0):
        sound = Sound(np.sin(2 * np.pi * tone * time, dtype=np.float32)[:, None], 8000)
        picture = picture_of(sound, Preprocess(channels=1, log_mel=MEL))
        assert picture is not None
        assert picture.size == (MEL.frames, 20)
        pixels = np.asarray(picture)
        assert (pixels.min(), pixels.max()) == (0, 255)
        heights.append(int(pixels.mean(axis=1).argmax()))
    assert heights[0] > 14  # from the top
    assert heights[1] < 6


def test_features_are_shown_where_they_have_two_dimensions():
    prepared = Preprocess(features=True)
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    picture = picture_of(Features(values), prepared)
    assert picture is not None
    assert np.asarray(picture)[:, 0].tolist() == [185, 93, 0]
    last = picture_of(Features(values.transpose(1, 2, 0)), Preprocess(features=True, layout="nhwc"))
    assert last is not None
    assert np.array_equal(np.asarray(last), np.asarray(picture))
    assert picture_of(Features(np.ones(5, np.float32)), prepared) is None
    flat = picture_of(Features(np.ones((3, 4), np.float32)), prepared)
    assert flat is not None
    assert not np.asarray(flat).any()
