"""Spectrograms against librosa's numbers, and settings that make none.

The values were computed once with librosa 0.11.0: ``log(melspectrogram(...) + log_offset)``.
"""

import numpy as np
import pytest

from edgeres.data.log_mel import LogMel
from edgeres.data.preprocess import Preprocess
from edgeres.data.sound import Sound
from edgeres.errors import DataError, UsageError
from edgeres.evaluation.distinct import Sketcher

RATE = 8000


def chirp(rate=RATE, channels=1):
    time = np.arange(rate) / rate
    wave = 0.4 * np.sin(2 * np.pi * (200 * time + 1500 * time**2))
    wave = wave + 0.1 * np.sin(2 * np.pi * 3100 * time)
    return Sound(np.repeat(wave.astype(np.float32)[:, None], channels, axis=1), rate)


LIBROSA = LogMel(
    RATE, 1.0, 512, None, 128, 40, mel_scale="slaney", norm="slaney", pad_mode="constant"
)
HTK = LogMel(RATE, 1.0, 256, 200, 80, 20, 60.0, 3800.0, power=1.0, log_offset=1e-3)
PLAIN = LogMel(
    RATE, 1.0, 400, None, 160, 30, 20.0, mel_scale="slaney", log_offset=1e-5, center=False
)


@pytest.mark.parametrize(
    ("settings", "shape", "corners", "mean"),
    [
        (
            LIBROSA,
            (40, 63),
            [
                [-0.64862, -13.81551, -8.03731],
                [-6.47267, -13.81545, -7.80604],
                [-6.3736, -13.81529, -3.4302],
            ],
            -11.15176,
        ),
        (
            HTK,
            (20, 101),
            [
                [3.10217, -6.63934, -1.18327],
                [0.54628, -6.207, -0.62407],
                [1.94715, -0.58075, 3.72462],
            ],
            -3.5269,
        ),
        (
            PLAIN,
            (30, 48),
            [
                [-2.98436, -11.51289, -11.51292],
                [-11.42566, -11.5079, -11.51291],
                [-11.51292, -11.51288, -11.04121],
            ],
            -8.19415,
        ),
    ],
)
def test_spectrograms_are_those_of_librosa(settings, shape, corners, mean):
    found = settings.apply(chirp())
    assert found.shape == shape == (settings.n_mels, settings.frames)
    assert found.dtype == np.float32
    rows, columns = ([0, size // part, size - 1] for size, part in zip(shape, (3, 2), strict=True))
    np.testing.assert_allclose(found[np.ix_(rows, columns)], corners, atol=1e-4)
    assert abs(found.mean() - mean) < 1e-4


def test_stereo_and_other_rates_are_brought_to_one():
    one = LIBROSA.apply(chirp())
    np.testing.assert_allclose(LIBROSA.apply(chirp(channels=2)), one, atol=1e-5)
    loud = one > -3
    for rate in (16_000, 11_025, 44_100):
        found = LIBROSA.apply(chirp(rate))
        assert found.shape == one.shape
        assert np.abs(found - one)[loud].mean() < 0.1


def test_short_sounds_get_silence_and_long_ones_are_cut():
    short = LIBROSA.apply(Sound(chirp().samples[:1000], RATE))
    assert short.shape == (40, 63)
    np.testing.assert_array_equal(short[:, -1], np.float32(np.log(1e-6)))
    twice = Sound(np.concatenate([chirp().samples] * 2), RATE)
    np.testing.assert_array_equal(LIBROSA.apply(twice), LIBROSA.apply(chirp()))
    with pytest.raises(DataError, match="without samples"):
        LIBROSA.apply(Sound(np.zeros((0, 1), np.float32), RATE))


@pytest.mark.parametrize(
    ("channels", "layout", "shape"),
    [
        (1, "nchw", (1, 40, 63)),
        (40, "nchw", (40, 63)),
        (1, "nhwc", (40, 63, 1)),
        (40, "nhwc", (63, 40)),
    ],
)
def test_the_network_gets_its_shape_and_measure(channels, layout, shape):
    preprocess = Preprocess(
        log_mel=LIBROSA, channels=channels, layout=layout, mean=(-7.0,), std=(2.0,)
    )
    found = preprocess.apply(chirp())
    assert found.shape == shape
    plain = (LIBROSA.apply(chirp()) + 7) / 2
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(plain.ravel()), rtol=1e-6)
    assert preprocess.output_size(1, 1) == (40, 63)
    assert preprocess.value_range == (-np.inf, np.inf)
    assert Sketcher(preprocess, found.shape)(found[None]).shape == (1, 16)


def test_settings_travel():
    preprocess = Preprocess(log_mel=HTK, channels=20)
    assert Preprocess.from_json(preprocess.to_json()) == preprocess
    assert Preprocess(log_mel={"n_mels": 13}, channels=13).log_mel == LogMel(n_mels=13)
    assert "log_mel" not in Preprocess().to_dict()
    assert "features" not in Preprocess().to_dict()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"mels": 3}, "'n_mels'"),
        ({"n_mels": 0}, "n_mels"),
        ({"n_fft": True}, "n_fft"),
        ({"win_length": 401}, "win_length"),
        ({"f_min": 9000.0}, "f_min"),
        ({"f_max": 9000.0}, "f_max"),
        ({"f_min": 100.0, "f_max": 50.0}, "f_max"),
        ({"mel_scale": "bark"}, "mel_scale"),
        ({"norm": "htk"}, "norm"),
        ({"log_offset": 0}, "log_offset"),
        ({"power": float("nan")}, "power"),
        ({"duration_s": 1e9}, "duration_s"),
        ({"duration_s": 0.01}, "duration_s"),
        ({"duration_s": "1"}, "duration_s"),
        ({"power": 10**400}, "power"),
        ({"mel_scale": []}, "mel_scale"),
        ({"center": 1}, "center"),
    ],
)
def test_settings_that_make_no_sense(values, reason):
    with pytest.raises(UsageError) as caught:
        LogMel.from_dict(values)
    assert reason in str(caught.value)


def test_a_sound_needs_settings_and_settings_need_a_sound():
    from PIL import Image

    with pytest.raises(DataError, match="`log_mel`"):
        Preprocess().apply(chirp())
    with pytest.raises(DataError, match="Expected a sound"):
        Preprocess(log_mel=LIBROSA, channels=1).apply(Image.new("L", (3, 3)))
    with pytest.raises(UsageError, match="1 or 40"):
        Preprocess(log_mel=LIBROSA)
