"""Short tones of three heights in noise: a set of sounds that a small network learns in seconds."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

WORDS = {"high": 1600.0, "low": 400.0, "middle": 800.0}
RATE = 8000
LOG_MEL = {
    "sample_rate": RATE, "duration_s": 0.25, "n_fft": 256, "hop_length": 125, "n_mels": 16,
}  # fmt: skip
SHAPE = (16, 17)


def write_tones(folder: Path, *, train: int = 60, val: int = 20, rate: int = RATE) -> Path:
    """Writes ``train`` and ``val`` files of each word; equal arguments give equal files."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for word, height in WORDS.items():
            for number in range(count):
                path = folder / split / word / f"{number}.wav"
                write_wav(path, tone(height * rng.uniform(0.85, 1.15), rate, rng), rate)
    return folder


def tone(height: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """A quarter of a second with a tone somewhere in it."""
    length = rate // 4
    time = np.arange(length) / rate
    start, end = np.sort(rng.uniform(0, 0.25, 2)) if rng.random() < 0.5 else (0.0, 0.25)
    heard = (time >= min(start, 0.1)) & (time <= max(end, 0.15))
    sound = np.sin(2 * np.pi * height * time + rng.uniform(0, 6)) * heard
    return 0.3 * sound + 0.02 * rng.standard_normal(length)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> None:
    """A mono file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples * 32_767).astype("<i2").tobytes())
