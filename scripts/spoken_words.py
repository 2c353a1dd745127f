"""Makes a keyword set that nobody recorded: ten words spoken by espeak-ng in many voices.

    python scripts/spoken_words.py DIR [--seed 0] [--train-takes 12] [--val-takes 25]

Leaves ``DIR/train/WORD/*.wav`` and ``DIR/val/WORD/*.wav``, 16 kHz mono WAV of one second, and
``DIR/made_by.json``. The voices of ``val`` are not heard in ``train``. Each take has an accent, a
speed, a pitch, a loudness, a place in the second and a coloured noise of its own, all drawn from
the seed and the take's name, so the same seed and the same espeak-ng give the same bytes.

The set is synthetic: it shows that the path works, not how good a network is on people. Speech
Commands (arXiv:1804.03209) has the same layout of a folder for each word.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

F64 = NDArray[np.float64]

PROGRAM = "espeak-ng"
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
ACCENTS = (
    *("en-us", "en-us-nyc", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp"),
    *("en-gb-x-gbcwmd", "en-029"),
)
VOICES = {
    "train": (
        *("f1", "f2", "f4", "m1", "m2", "m4", "m5", "m6", "m8", "Alex", "Alicia", "Andy", "Annie"),
        *("Denis", "Diogo", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Michael", "Nguyen", "adam"),
        *("antonio", "aunty", "benjamin", "boris", "david", "edward", "grandpa", "iven", "linda"),
        *("max", "miguel", "pablo", "paul", "quincy", "rob", "shelby", "travis"),
    ),
    "val": (
        *("f3", "f5", "m3", "m7", "Andrea", "Henrique", "Mario", "Mike", "anika", "belinda"),
        *("john", "steph"),
    ),
}
"""Speakers by split: variants of espeak-ng, which have vocal tracts of their own."""

RATE, LENGTH = 16_000, 16_000
"""Of the files: samples a second, and samples."""
SPEED = (120, 210)  # words a minute
PITCH = (25, 75)  # espeak-ng's scale from 0 to 99
LOUDNESS_DB = (-18.0, -3.0)  # peak of the word below full scale
NOISE_DB = (-40.0, -14.0)  # noise below the word, both as root mean squares
COLOUR = (0.0, 1.2)  # exponent of the noise: 0 is white, 1 is pink
_QUIET = 0.01  # of the peak: less than that at the ends is no part of the word


@dataclass(frozen=True)
class Take:
    """One file of the set."""

    split: str
    word: str
    voice: str
    number: int

    @property
    def path(self) -> Path:
        """Inside of the set's folder."""
        return Path(self.split, self.word, f"{self.voice}_{self.number:03}.wav")


def takes_of(counts: dict[str, int]) -> Iterator[Take]:
    """Every file of the set; ``counts`` are takes for each word and voice by split."""
    for split, voices in VOICES.items():
        for word in WORDS:
            for voice in voices:
                for number in range(counts[split]):
                    yield Take(split, word, voice, number)


def record(take: Take, seed: int) -> NDArray[np.int16]:
    """One take, ``(LENGTH,) int16``."""
    name = f"{seed} {take.path.as_posix()}".encode()
    rng = np.random.default_rng(list(hashlib.sha256(name).digest()))
    accent = ACCENTS[rng.integers(len(ACCENTS))]
    speed, pitch = rng.integers(*SPEED, endpoint=True), rng.integers(*PITCH, endpoint=True)
    spoken = trimmed(speak(take.word, f"{accent}+{take.voice}", int(speed), int(pitch)))
    spoken *= 10 ** (rng.uniform(*LOUDNESS_DB) / 20) / np.abs(spoken).max()
    spoken = spoken[:LENGTH]
    place = rng.integers(LENGTH - len(spoken), endpoint=True)
    sound = np.zeros(LENGTH)
    sound[place : place + len(spoken)] = spoken
    level = np.sqrt(np.mean(spoken**2)) * 10 ** (rng.uniform(*NOISE_DB) / 20)
    sound += level * noise(LENGTH, rng.uniform(*COLOUR), rng)
    return np.round(np.clip(sound, -1, 1) * 32_767).astype(np.int16)


def speak(word: str, voice: str, speed: int, pitch: int) -> F64:
    """A word as espeak-ng speaks it, ``(T,)`` at :data:`RATE`."""
    command = [PROGRAM, "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0 or len(done.stdout) < 100:
        said = done.stderr.decode(errors="replace").strip() or "no sound"
        raise SystemExit(f"{PROGRAM} with the voice {voice!r}: {said}")
    with wave.open(io.BytesIO(done.stdout)) as file:
        rate = file.getframerate()
        # A stream to a pipe says no length: all that is there is read.
        samples = np.frombuffer(file.readframes(len(done.stdout)), dtype="<i2")
    common = np.gcd(rate, RATE)
    sound: F64 = resample_poly(samples.astype(np.float64), RATE // common, rate // common)
    return sound


def trimmed(sound: F64) -> F64:
    """The sound without the silence at its ends."""
    loud = np.flatnonzero(np.abs(sound) > _QUIET * np.abs(sound).max())
    return sound[loud[0] : loud[-1] + 1]


def noise(length: int, colour: float, rng: np.random.Generator) -> F64:
    """Noise of root mean square one, whose power falls with the frequency to the ``colour``."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (colour / 2)
    spectrum[0] = 0
    found = np.fft.irfft(spectrum, length)
    return np.asarray(found / np.sqrt(np.mean(found**2)))


def write(path: Path, samples: NDArray[np.int16]) -> None:
    """A mono WAV file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def checked_program() -> str:
    """The version of espeak-ng, which must be here with all the voices."""
    if shutil.which(PROGRAM) is None:
        raise SystemExit(
            f"{PROGRAM} is not on the PATH: install it, on Debian and Ubuntu with "
            "`apt-get install espeak-ng`."
        )
    version = _output("--version").split("Data at")[0].strip()
    listed = {line.split("!v/")[-1].split()[0] for line in _output("--voices=variant").splitlines()}
    missing = [voice for voices in VOICES.values() for voice in voices if voice not in listed]
    if missing:
        raise SystemExit(f"{version} lacks the voices {', '.join(missing)}: install a newer one.")
    return version


def _output(option: str) -> str:
    done = subprocess.run([PROGRAM, option], capture_output=True, text=True, check=True)
    return done.stdout


def main(arguments: list[str]) -> int:
    """Makes the set and says how many files it has."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="new folder of the set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-takes", type=int, default=12, help="for each word and voice")
    parser.add_argument("--val-takes", type=int, default=25, help="for each word and voice")
    options = parser.parse_args(arguments)
    if options.folder.exists() and any(options.folder.iterdir()):
        raise SystemExit(f"{options.folder} is not empty: give a new folder.")
    version = checked_program()
    counts = {"train": options.train_takes, "val": options.val_takes}
    takes = list(takes_of(counts))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for take, samples in zip(
            takes, pool.map(lambda one: record(one, options.seed), takes), strict=True
        ):
            write(options.folder / take.path, samples)
    about = {"program": version, "seed": options.seed, "takes": counts, "voices": VOICES}
    (options.folder / "made_by.json").write_text(json.dumps(about, indent=1) + "\n")
    parts = {split: sum(take.split == split for take in takes) for split in counts}
    print(f"{options.folder}: {parts['train']} sounds to train, {parts['val']} to test, {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
