"""The recipe's `preprocess:`: how an image becomes numbers, as far as somebody says it."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgeres.data.geometry import Interpolation
from edgeres.data.preprocess import COLOURS, ChannelOrder, Layout, Preprocess
from edgeres.errors import UsageError
from edgeres.recipe.block import Block, Many

Side = Annotated[int, Field(gt=0)]
Size = Side | Annotated[tuple[Side, Side], Field(strict=False)]


class LogMelBlock(Block):
    """How a sound becomes a log-mel spectrogram; what is left out is at its default.

    ``center`` and ``pad_mode`` say what stands in front of the first sample.
    """

    sample_rate: int = Field(default=16_000, gt=0)
    duration_s: float = Field(default=1.0, gt=0.0)
    n_fft: int = Field(default=400, gt=0)
    win_length: int | None = Field(default=None, gt=0)
    hop_length: int = Field(default=160, gt=0)
    n_mels: int = Field(default=40, gt=0)
    f_min: float = Field(default=0.0, ge=0.0)
    f_max: float | None = Field(default=None, gt=0.0)
    mel_scale: Literal["htk", "slaney"] = "htk"
    norm: Literal["slaney"] | None = None
    power: float = Field(default=2.0, gt=0.0)
    log_offset: float = Field(default=1e-6, gt=0.0)
    center: bool = True
    pad_mode: Literal["reflect", "constant"] = "reflect"


class PreprocessBlock(Block):
    """Decode, resize, crop, channel order, then ``(x * scale - mean) / std``, x in 0..255.

    What is left out is as it travelled with the model.
    """

    scale: float = Field(default=1 / 255, gt=0.0)
    mean: Many[float] = (0.0,)
    std: Many[Annotated[float, Field(gt=0.0)]] = (1.0,)
    resize: Size | None = None
    crop: Size | None = None
    crop_pct: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="Share of the resized shorter side that a square `crop` keeps, as timm has it; "
        "stands for `resize: floor(crop / crop_pct)`.",
    )
    channel_order: ChannelOrder = "rgb"
    layout: Layout = "nchw"
    channels: int | None = Field(
        default=None, ge=1, description="3 for colour, 1 for grey, or the planes of the images."
    )
    interpolation: Interpolation = "bilinear"
    antialias: bool = Field(
        default=True,
        description="false: making smaller takes the pixels around each centre alone, as torch on "
        "tensors and OpenCV do; for bilinear and bicubic.",
    )
    letterbox: Size | None = Field(
        default=None,
        description="Side of a square or [height, width] that the image is fitted into with its "
        "shape kept; in place of `resize` and `crop`.",
    )
    letterbox_fill: int = Field(
        default=114, ge=0, le=255, description="Value of the pixels around it."
    )
    features: bool = Field(
        default=False, description="The network takes features, which nothing is done to."
    )
    log_mel: LogMelBlock | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> PreprocessBlock:
        alone = isinstance(self.crop, int) and self.resize is None
        if self.crop_pct is not None and not alone:
            raise ValueError("`crop_pct`: expected with a square `crop` and without `resize`")
        try:
            self.complete()
        except UsageError as error:
            raise ValueError(error.message.removeprefix("Preprocess: ").rstrip(".")) from error
        return self

    def complete(self) -> Preprocess:
        """The same as settings that are complete: what was left out is at its default.

        As many channels as there are means or deviations, where those are more than of a colour.
        """
        said = self.said()
        numbers = max(len(self.mean), len(self.std))
        if "channels" not in said and self.log_mel is not None:
            said["channels"] = 1 if numbers == 1 else numbers
        elif "channels" not in said and numbers > COLOURS:
            said["channels"] = numbers
        return Preprocess.from_dict(said)

    def said(self) -> dict[str, object]:
        """What somebody said, by key; ``crop_pct`` as the ``resize`` that it stands for."""
        said = self.model_dump(exclude_unset=True)
        share = said.pop("crop_pct", None)
        if share is not None and isinstance(self.crop, int):
            said["resize"] = math.floor(self.crop / share)
        return {key: value for key, value in said.items() if (key, value) != ("channels", None)}
