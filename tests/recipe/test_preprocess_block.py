"""The recipe's `preprocess:`: shares of a crop, and sounds."""

import pytest

from edgeres.data.log_mel import LogMel
from edgeres.errors import UsageError
from edgeres.recipe.preprocess import LogMelBlock, PreprocessBlock


@pytest.mark.parametrize(("crop", "share", "resize"), [(224, 0.875, 256), (224, 0.95, 235)])
def test_a_share_of_the_crop_is_a_resize(crop, share, resize):
    block = PreprocessBlock(crop=crop, crop_pct=share)
    assert block.complete().resize == resize
    assert block.said() == {"crop": crop, "resize": resize}


@pytest.mark.parametrize(
    "values", [{}, {"crop": [3, 4]}, {"crop": 24, "resize": 30}, {"crop": 24, "crop_pct": 1.1}]
)
def test_a_share_needs_a_square_crop_alone(values):
    with pytest.raises(UsageError, match="crop_pct"):
        PreprocessBlock(**{"crop_pct": 0.9, **values})


def test_a_spectrogram_is_of_one_channel_unless_somebody_says_bands():
    assert PreprocessBlock(log_mel={"n_mels": 13}).complete().channels == 1
    bands = PreprocessBlock(log_mel={"n_mels": 13}, channels=13).complete()
    assert (bands.channels, bands.log_mel) == (13, LogMel(n_mels=13))
    with pytest.raises(UsageError, match="f_max"):
        PreprocessBlock(log_mel={"f_max": 9000.0})


def test_the_block_has_the_defaults_of_the_settings():
    assert LogMel(**LogMelBlock().model_dump()) == LogMel()
