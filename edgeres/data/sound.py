"""One sound, and how it is read from a WAV or FLAC file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.errors import DataError, one_line
from edgeres.system.extras import import_extra
from edgeres.system.plain_files import refuse_special

ENDINGS = (".wav", ".flac")
"""Endings, in any case, of files that count as sounds."""

MAX_NUMBERS = 100_000_000
"""Largest sound that is read, in samples times channels (400 MB)."""

_HINT = "Replace the file, or take it out."


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound as it was recorded.

    Attributes:
        samples: ``(T, channels) float32``, in -1 to 1.
        rate: Samples a second.
    """

    samples: NDArray[np.float32]
    rate: int

    @property
    def width(self) -> int:
        """Number of samples."""
        return len(self.samples)

    @property
    def height(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Samples and channels."""
        return self.width, self.height

    @property
    def mode(self) -> str:
        """What kind of sample it is, in words."""
        return f"a sound of {self.rate} Hz"

    def tobytes(self) -> bytes:
        """All samples."""
        return self.samples.tobytes()

    def to_wav(self) -> bytes:
        """A WAV file that loses nothing."""
        buffer = io.BytesIO()
        soundfile = import_extra("soundfile", user="writing sounds")
        soundfile.write(buffer, self.samples, self.rate, format="WAV", subtype="FLOAT")
        return buffer.getvalue()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The samples, for NumPy."""
        return np.array(self.samples, dtype=dtype, copy=bool(copy))


def is_sound(path: Path | str) -> bool:
    """Whether a file's name is that of a sound."""
    return str(path).lower().endswith(ENDINGS)


def read_sound(path: Path) -> Sound:
    """Reads a sound.

    Raises:
        DataError: It is missing, empty, too long, damaged or holds NaN; the message names it.
        BackendMissingError: The package that reads it is not installed.
    """
    refuse_special(path, DataError)
    soundfile = import_extra("soundfile", user="reading sounds")
    try:
        with path.open("rb") as stream, soundfile.SoundFile(stream) as file:
            rate, numbers = int(file.samplerate), file.frames * file.channels
            if not 0 < numbers <= MAX_NUMBERS:
                raise DataError(
                    f"Expected 1 to {MAX_NUMBERS:,} samples in {str(path)!r}, got {numbers:,}.",
                    hint=_HINT,
                )
            samples = file.read(dtype="float32", always_2d=True)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(
            f"Expected a WAV or FLAC file at {str(path)!r}, got: {reason}.", hint=_HINT
        ) from error
    if len(samples) == 0 or not np.isfinite(samples).all():
        what = "NaN or infinity" if len(samples) else "no samples"
        raise DataError(f"Expected a sound in {str(path)!r}, got {what}.", hint=_HINT)
    return Sound(samples, rate)
