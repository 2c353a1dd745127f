"""The recipe's `preprocess:`: how an image becomes numbers, as far as somebody says it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from edgeres.data.geometry import Interpolation
from edgeres.data.preprocess import COLOURS, ChannelOrder, Layout, Preprocess
from edgeres.errors import UsageError
from edgeres.recipe.block import Block, Many

Side = Annotated[int, Field(gt=0)]
Size = Side | Annotated[tuple[Side, Side], Field(strict=False)]


class PreprocessBlock(Block):
    """Decode, resize, crop, channel order, then ``(x * scale - mean) / std``, x in 0..255.

    What is left out is as it travelled with the model.
    """

    scale: float = Field(default=1 / 255, gt=0.0)
    mean: Many[float] = (0.0,)
    std: Many[Annotated[float, Field(gt=0.0)]] = (1.0,)
    resize: Size | None = None
    crop: Size | None = None
    channel_order: ChannelOrder = "rgb"
    layout: Layout = "nchw"
    channels: int | None = Field(
        default=None, ge=1, description="3 for colour, 1 for grey, or the planes of the images."
    )
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _makes_sense(self) -> PreprocessBlock:
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
        if "channels" not in said and numbers > COLOURS:
            said["channels"] = numbers
        return Preprocess.from_dict(said)

    def said(self) -> dict[str, object]:
        """What somebody said, by key."""
        said = self.model_dump(exclude_unset=True)
        return {key: value for key, value in said.items() if (key, value) != ("channels", None)}
