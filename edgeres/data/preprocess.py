"""From a decoded image to the numbers a network was trained on, as one frozen setting.

Applied in this order and no other: decode, convert to grey or RGB, resize and crop (or letterbox),
channel order, ``(x * scale - mean) / std``.

The arithmetic, because engines and other languages must repeat it to the bit: ``x * scale`` is
computed in float64 and rounded once to float32; the subtraction and the division are float32, with
``mean`` and ``std`` rounded to float32 first. With ``scale = 1/255`` that is, for each of the 256
values, what torchvision's ``ToTensor`` (``x / 255`` in float32) and ``Normalize`` give.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeres.data.decode import to_grey_or_rgb
from edgeres.data.features import Features
from edgeres.data.geometry import (
    Interpolation,
    Size,
    center_crop,
    cropped_size,
    letterbox_image,
    resize_image,
    resized_size,
)
from edgeres.data.log_mel import LogMel
from edgeres.data.planes import Planes
from edgeres.data.setting_values import (
    SETTINGS_HINT,
    check_choice,
    check_names,
    check_placing,
    number,
    numbers,
    size,
    wrong_setting,
)
from edgeres.data.sound import Sound
from edgeres.data.types import Sample
from edgeres.errors import DataError
from edgeres.system.foreign_json import parse_json

Fitted = NDArray[np.uint8] | NDArray[np.float32]
"""A sample before normalization: pixels, or features that need none."""

ChannelOrder = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]

COLOURS = 3
MAX_CHANNELS = 1024
"""Most planes of an image."""

_RARE: Mapping[str, object] = {
    "antialias": True,
    "letterbox": None,
    "letterbox_fill": 114,
    "features": False,
    "log_mel": None,
}
"""Settings that are not written where they have this value."""


class PreprocessLike(Protocol):
    """:class:`Preprocess`, or what a recipe says of it."""

    def complete(self) -> Preprocess:
        """All of it."""
        ...


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image before it enters the network.

    Attributes:
        scale: Factor of the 8-bit values, over 0.
        mean: Subtracted after scaling: one value, or one for each channel in ``channel_order``.
        std: Divides after that, over 0: one value, or one for each channel.
        resize: Length of the shorter side, an exact ``(height, width)``, or ``None``. In pixels,
            with antialiasing.
        crop: Side of a square, or ``(height, width)``, cut from the centre, or ``None``.
        channel_order: Order of the colour channels at the network's input.
        layout: ``nchw`` gives ``(C, H, W)``, ``nhwc`` gives ``(H, W, C)``.
        channels: 3 for colour, 1 for grey (ITU-R 601-2 luma, converted before resizing), or the
            planes of images that have others, which nothing is converted to.
        interpolation: Filter of ``resize``: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``,
            as Pillow has them.
        antialias: Whether making smaller averages over all pixels, as Pillow's filters do;
            ``False`` takes the two or four around each centre, as torch on tensors and OpenCV do.
            Without a meaning for ``nearest``; ``lanczos`` has no other form.
        letterbox: Side of a square, or ``(height, width)``: the image is made as large as fits into
            it with its shape kept, in the middle. In place of ``resize`` and ``crop``.
        letterbox_fill: Value of the pixels around it, 0 to 255 in every channel.
        features: The network takes features, which are its input already: all the other settings
            but ``layout`` mean nothing, and images are refused.
        log_mel: How sounds become spectrograms, of which then ``(x - mean) / std`` is taken; a
            dictionary of its settings will do. The other settings but ``channels`` (1, or the
            number of bands for a network over time) and ``layout`` mean nothing.
    """

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: Size | None = None
    crop: Size | None = None
    channel_order: ChannelOrder = "rgb"
    layout: Layout = "nchw"
    channels: int = 3
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    letterbox: Size | None = None
    letterbox_fill: int = 114
    features: bool = False
    log_mel: LogMel | None = None

    def __post_init__(self) -> None:
        """Normalizes numbers and pairs, and checks every field.

        Raises:
            UsageError: A value that makes no sense, with the field's name.
        """
        for name in ("mean", "std"):
            object.__setattr__(self, name, numbers(name, getattr(self, name)))
        object.__setattr__(self, "scale", number("scale", self.scale))
        for name in ("resize", "crop", "letterbox"):
            object.__setattr__(self, name, size(name, getattr(self, name)))
        check_choice("channel_order", self.channel_order, get_args(ChannelOrder))
        check_choice("layout", self.layout, get_args(Layout))
        check_choice("interpolation", self.interpolation, get_args(Interpolation))
        check_placing(self)
        self._check_kind()
        if type(self.channels) is not int or not 1 <= self.channels <= MAX_CHANNELS:
            raise wrong_setting("channels", f"1 to {MAX_CHANNELS}", self.channels)
        if self.channels != COLOURS and self.channel_order == "bgr":
            channels = "one channel" if self.channels == 1 else f"{self.channels} channels"
            raise wrong_setting(
                "channel_order", f"'rgb' for an image of {channels}", self.channel_order
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise wrong_setting(
                    name, f"1 or {self.channels} numbers", list(getattr(self, name))
                )
        if self.scale <= 0:
            raise wrong_setting("scale", "a number over 0", self.scale)
        if min(self.std) <= 0:
            raise wrong_setting("std", "numbers over 0", list(self.std))
        if not np.isfinite(self._table).all():
            raise wrong_setting("scale, mean and std", "finite float32 results", self.to_dict())

    def _check_kind(self) -> None:
        """Checks what says that samples are no images."""
        if type(self.features) is not bool:
            raise wrong_setting("features", "true or false", self.features)
        if isinstance(self.log_mel, Mapping):
            object.__setattr__(self, "log_mel", LogMel.from_dict(self.log_mel))
        if self.log_mel is not None and not isinstance(self.log_mel, LogMel):
            raise wrong_setting("log_mel", "settings by name", self.log_mel)
        if self.log_mel is not None and self.channels not in (1, self.log_mel.n_mels):
            expected = f"1 or {self.log_mel.n_mels}, the bands of log_mel,"
            raise wrong_setting("channels", expected, self.channels)

    def complete(self) -> Preprocess:
        """These very settings, which lack nothing."""
        return self

    def fit(self, image: Sample) -> NDArray[np.uint8]:
        """Converts, resizes and crops.

        Args:
            image: A Pillow image of any mode that :func:`~edgeres.data.decode.to_grey_or_rgb`
                takes, or planes; no features.

        Returns:
            ``(H, W) uint8`` for one channel, ``(H, W, 3) uint8`` in RGB order for three,
            ``(H, W, C) uint8`` for other planes.

        Raises:
            DataError: The mode has no defined range, the image has other channels than the network,
                the resized image would be too large, or it is none at all.
        """
        if isinstance(image, Planes):
            return self._fit_planes(image)
        if isinstance(image, Features | Sound):
            raise DataError(
                f"Expected an image, got {image.mode}.",
                hint="Sounds need `log_mel` in the `preprocess:` block; features need nothing.",
            )
        if self.channels not in (1, COLOURS):
            raise DataError(
                f"Expected an image of {self.channels} channels, as the network takes, got one of "
                f"mode {image.mode}.",
                hint="Give npz:FILE with images (N, H, W, C) uint8.",
            )
        image, mode = to_grey_or_rgb(image), "L" if self.channels == 1 else "RGB"
        shown = image if image.mode == mode else image.convert(mode)  # which copies in any case
        return np.array(self.place(shown))

    def _fit_planes(self, image: Planes) -> NDArray[np.uint8]:
        if image.channels != self.channels:
            raise DataError(
                f"Expected an image of {self.channels} channels, as the network takes, got "
                f"{image.channels}.",
                hint="Give the images that the network was made for.",
            )
        planes = (Image.fromarray(image.pixels[..., plane]) for plane in range(image.channels))
        return np.stack([np.asarray(self.place(plane)) for plane in planes], axis=-1)

    def place(
        self,
        image: Image.Image,
        *,
        interpolation: Interpolation | None = None,
        fill: int | None = None,
    ) -> Image.Image:
        """Resizes and crops; a mask over the image takes another filter and another surrounding.

        Raises:
            DataError: The resized image would be too large, or nothing would be left of it.
        """
        chosen = interpolation or self.interpolation
        if self._box is not None:
            around = self.letterbox_fill if fill is None else fill
            return letterbox_image(image, self._box, chosen, antialias=self.antialias, fill=around)
        resized = resize_image(image, self.resize, chosen, antialias=self.antialias)
        return center_crop(resized, self.crop, fill or 0)

    def fit_sample(self, sample: Sample) -> Fitted:
        """As :meth:`fit` for images; features ``(...) float32`` are what the network takes already.

        Raises:
            DataError: See :meth:`fit`.
        """
        if isinstance(sample, Features):
            return sample.values
        if self.features:
            raise DataError(
                f"Expected features, as the network takes, got an image or {sample.mode}.",
                hint="Give an array of floats, the .npy file of one, or tensors:FILE.",
            )
        if isinstance(sample, Sound) and self.log_mel is not None:
            return self._spectrogram(sample, self.log_mel)
        if self.log_mel is not None:
            raise DataError(
                "Expected a sound, as the network takes, got an image.",
                hint="Give WAV or FLAC files, or audiofolder:PATH.",
            )
        return self.fit(sample)

    def _spectrogram(self, sound: Sound, log_mel: LogMel) -> NDArray[np.float32]:
        """``(1, F, T)`` or ``(F, T)``, with the channels last for layout ``nhwc``."""
        bands = (-1, 1)
        mean = np.array(self.mean, dtype=np.float32).reshape(bands)
        std = np.array(self.std, dtype=np.float32).reshape(bands)
        found = (log_mel.apply(sound) - mean) / std
        if self.channels == 1:
            found = found[None]
        return np.ascontiguousarray(np.moveaxis(found, 0, -1) if self.layout == "nhwc" else found)

    def batch(self, fitted: Sequence[Fitted] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """Samples of one shape that :meth:`fit_sample` gave, as the network takes them."""
        stacked = np.stack(fitted) if isinstance(fitted, Sequence) else fitted
        if stacked.dtype != np.uint8:
            return stacked.astype(np.float32, copy=False)
        return self.normalize(stacked.astype(np.uint8, copy=False))

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Puts the channels in order and computes ``(x * scale - mean) / std``.

        Args:
            pixels: ``(N, H, W) uint8`` grey, which fills every channel, or ``(N, H, W, C) uint8``
                for as many channels, three of them in RGB order.

        Returns:
            ``(N, C, H, W) float32``, or ``(N, H, W, C) float32`` with layout ``nhwc``.
        """
        count, height, width = pixels.shape[:3]
        result = np.empty((count, self.channels, height, width), dtype=np.float32)
        for channel, table in enumerate(self._table):
            place = channel if self.channel_order == "rgb" else 2 - channel
            plane = pixels if pixels.ndim == 3 else pixels[..., place]
            # 8-bit values have 256 results: a look-up gives the bits of the arithmetic.
            np.take(table, plane, out=result[:, channel], mode="clip")
        if self.layout == "nhwc":
            return np.ascontiguousarray(result.transpose(0, 2, 3, 1))
        return result

    def apply(self, sample: Sample) -> NDArray[np.float32]:
        """Turns one decoded image into the network's input, ``(C, H, W)`` or ``(H, W, C) float32``.

        Features ``(...) float32`` are one already.

        Raises:
            DataError: See :meth:`fit`.
        """
        result: NDArray[np.float32] = self.batch([self.fit_sample(sample)])[0]
        return result

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at the network's input of an image of this height and width.

        Bands and frames of a spectrogram.
        """
        if self.log_mel is not None:
            return self.log_mel.n_mels, self.log_mel.frames
        if self._box is not None:
            return self._box
        return cropped_size(*resized_size(height, width, self.resize), self.crop)

    def keeps_pixels(self, height: int, width: int) -> bool:
        """Tells whether images of this size pass resize, crop and letterbox unchanged."""
        if self._box is not None:
            return self._box == (height, width)
        resized = resized_size(height, width, self.resize)
        return resized == (height, width) == cropped_size(height, width, self.crop)

    @property
    def keeps_numbers(self) -> bool:
        """Tells whether the numbers of a resized image pass unchanged."""
        plain = self.scale == 1.0 and set(self.mean) == {0.0} and set(self.std) == {1.0}
        return plain and not self.features and self.log_mel is None

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest number that :meth:`normalize` can give, over all channels.

        Features may be any number.
        """
        if self.features or self.log_mel is not None:
            return -math.inf, math.inf
        return float(self._table.min()), float(self._table.max())

    @property
    def _box(self) -> tuple[int, int] | None:
        """Height and width of the letterbox."""
        box = self.letterbox
        return (box, box) if isinstance(box, int) else box

    @cached_property
    def _table(self) -> NDArray[np.float32]:
        """Result for each channel and each 8-bit value, ``(C, 256) float32``."""
        shape = (self.channels, 1)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            scaled = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)
            mean = np.resize(np.array(self.mean, dtype=np.float64).astype(np.float32), shape)
            std = np.resize(np.array(self.std, dtype=np.float64).astype(np.float32), shape)
            table: NDArray[np.float32] = (scaled[None] - mean) / std
        return table

    def to_dict(self) -> dict[str, object]:
        """The settings as JSON values (pairs as lists), in the words of the recipe.

        What few networks need is left out where it is at its default: results that were stored
        before there was such a setting stay valid.
        """
        said = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in said.items() if k not in _RARE or v != _RARE[k]}

    def to_json(self) -> str:
        """The settings as one line of JSON; :meth:`from_json` gives back an equal object."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Builds the settings from JSON or recipe values.

        Raises:
            UsageError: An unknown name or a value that makes no sense.
        """
        check_names("preprocess", values, [field.name for field in fields(cls)], SETTINGS_HINT)
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """Reads what :meth:`to_json` wrote.

        Raises:
            DataError: The text is not a JSON object.
            UsageError: See :meth:`from_dict`.
        """
        try:
            values = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"Expected preprocess settings in JSON, got: {error}.") from error
        if not isinstance(values, dict):
            raise DataError(f"Expected preprocess settings as a JSON object, got {text[:60]!r}.")
        return cls.from_dict(values)
