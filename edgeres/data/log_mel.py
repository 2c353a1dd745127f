"""Log-mel spectrograms in NumPy, as torchaudio's ``MelSpectrogram`` and librosa's give them.

The short-time Fourier transform of ``n_fft`` points every ``hop_length`` samples, with a periodic
Hann window of ``win_length`` in its middle; magnitudes to ``power``; triangles on the mel scale
(``htk``: S. Young et al., "The HTK Book"; ``slaney``: M. Slaney, "Auditory Toolbox", 1998), each of
area one with ``norm: slaney``; and the natural logarithm of that plus ``log_offset``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeres.data.setting_values import check_names
from edgeres.data.sound import Sound
from edgeres.errors import DataError, UsageError

MelScale = Literal["htk", "slaney"]
MAX_FFT, MAX_MELS, MAX_SECONDS, MAX_RATE = 65_536, 4096, 600.0, 768_000

_HINT = "See `log_mel` in the recipe's `preprocess:` block."


@dataclass(frozen=True)
class LogMel:
    """How a sound becomes a picture of its frequencies over time.

    Attributes:
        sample_rate: In Hz; sounds of other rates are resampled.
        duration_s: Seconds: longer sounds are cut at the end, shorter ones get silence there.
        n_fft: Samples of one transform.
        win_length: Samples of the window; ``None`` for ``n_fft``.
        hop_length: Samples from one transform to the next.
        n_mels: Bands.
        f_min: Lowest frequency in Hz.
        f_max: Highest in Hz; ``None`` for half the sample rate.
        mel_scale: ``htk`` (torchaudio's default) or ``slaney`` (librosa's).
        norm: ``slaney`` (librosa's default) or ``None`` (torchaudio's).
        power: 2 for power, 1 for magnitude.
        log_offset: Added before the logarithm, over 0.
        center: Whether the first transform has its middle at the first sample.
        pad_mode: What is there before the first sample: ``reflect`` (torchaudio's) or ``constant``
            (librosa's), which is silence.
    """

    sample_rate: int = 16_000
    duration_s: float = 1.0
    n_fft: int = 400
    win_length: int | None = None
    hop_length: int = 160
    n_mels: int = 40
    f_min: float = 0.0
    f_max: float | None = None
    mel_scale: MelScale = "htk"
    norm: Literal["slaney"] | None = None
    power: float = 2.0
    log_offset: float = 1e-6
    center: bool = True
    pad_mode: Literal["reflect", "constant"] = "reflect"

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            UsageError: A value that makes no sense, with the field's name.
        """
        for name, most in (("sample_rate", MAX_RATE), ("n_fft", MAX_FFT), ("n_mels", MAX_MELS)):
            _whole(name, getattr(self, name), most)
        _whole("hop_length", self.hop_length, MAX_FFT)
        if self.win_length is not None:
            _whole("win_length", self.win_length, self.n_fft)
        half = self.sample_rate / 2
        _between("duration_s", self.duration_s, 1e-3, MAX_SECONDS)
        _between("f_min", self.f_min, 0.0, half)
        _between("f_max", half if self.f_max is None else self.f_max, self.f_min + 1e-3, half)
        _between("power", self.power, 0.1, 4.0)
        _between("log_offset", self.log_offset, 1e-30, 1e3)
        for name, choices in (
            ("mel_scale", ("htk", "slaney")),
            ("norm", ("slaney", None)),
            ("pad_mode", ("reflect", "constant")),
        ):
            if getattr(self, name) not in choices:
                raise _wrong(name, " or ".join(map(repr, choices)), getattr(self, name))
        if type(self.center) is not bool:
            raise _wrong("center", "true or false", self.center)
        least = self.n_fft // 2 + 1 if self.center and self.pad_mode == "reflect" else self.n_fft
        if not (self.center and self.pad_mode == "constant") and self.samples < least:
            raise _wrong("duration_s", f"at least {least} samples for n_fft", self.duration_s)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LogMel:
        """Builds the settings from JSON or recipe values.

        Raises:
            UsageError: An unknown name or a value that makes no sense.
        """
        check_names("log_mel", values, [field.name for field in fields(cls)], _HINT)
        return cls(**values)

    @property
    def samples(self) -> int:
        """Samples of a sound after padding or cutting."""
        return round(self.sample_rate * self.duration_s)

    @property
    def frames(self) -> int:
        """Columns of the spectrogram."""
        padding = 2 * (self.n_fft // 2) if self.center else 0
        return 1 + (self.samples + padding - self.n_fft) // self.hop_length

    def apply(self, sound: Sound) -> NDArray[np.float32]:
        """The spectrogram of a sound, ``(n_mels, frames) float32``.

        Raises:
            DataError: A sound without samples.
        """
        if sound.samples.size == 0:
            raise DataError("Expected a sound, got one without samples.", hint="Take it out.")
        mono = sound.samples.astype(np.float64).mean(axis=1)
        if sound.rate != self.sample_rate:
            from scipy.signal import resample_poly

            common = math.gcd(sound.rate, self.sample_rate)
            mono = resample_poly(mono, self.sample_rate // common, sound.rate // common)
        mono = np.pad(mono[: self.samples], (0, max(0, self.samples - len(mono))))
        if self.center:
            mono = np.pad(mono, self.n_fft // 2, mode=self.pad_mode)
        windows = np.lib.stride_tricks.sliding_window_view(mono, self.n_fft)[:: self.hop_length]
        spectrum = np.abs(np.fft.rfft(windows * self._window, axis=1)) ** self.power
        mels = self._filters @ spectrum.T
        result: NDArray[np.float32] = np.log(mels + self.log_offset).astype(np.float32)
        return result

    @cached_property
    def _window(self) -> NDArray[np.float64]:
        length = self.win_length or self.n_fft
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        left = (self.n_fft - length) // 2
        return np.pad(hann, (left, self.n_fft - length - left))

    @cached_property
    def _filters(self) -> NDArray[np.float64]:
        """Triangles ``(n_mels, n_fft // 2 + 1)``."""
        bins = np.linspace(0, self.sample_rate / 2, self.n_fft // 2 + 1)
        top = self.sample_rate / 2 if self.f_max is None else self.f_max
        low, high = _to_mel(np.array([self.f_min, top]), self.mel_scale).tolist()
        edges = _to_hertz(np.linspace(low, high, self.n_mels + 2), self.mel_scale)
        gaps = np.diff(edges)
        slopes = edges[:, None] - bins[None]
        rising, falling = -slopes[:-2] / gaps[:-1, None], slopes[2:] / gaps[1:, None]
        filters = np.maximum(0.0, np.minimum(rising, falling))
        if self.norm == "slaney":
            filters *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
        return np.asarray(filters)


_STEP, _KNEE, _LOG = 200.0 / 3, 1000.0, math.log(6.4) / 27


def _to_mel(hertz: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hertz / 700.0))
    above = _KNEE / _STEP + np.log(np.maximum(hertz, _KNEE) / _KNEE) / _LOG
    return np.where(hertz < _KNEE, hertz / _STEP, above)


def _to_hertz(mels: NDArray[np.float64], scale: MelScale) -> NDArray[np.float64]:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    knee = _KNEE / _STEP
    return np.where(mels < knee, mels * _STEP, _KNEE * np.exp(_LOG * (mels - knee)))


def _wrong(name: str, expected: str, value: object) -> UsageError:
    return UsageError(
        f"Preprocess: `log_mel.{name}`: expected {expected}, got {value!r}.", hint=_HINT
    )


def _whole(name: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise _wrong(name, f"a whole number from 1 to {most:,}", value)


def _between(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _wrong(name, f"a number from {least:g} to {most:g}", value)
