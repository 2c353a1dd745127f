"""Does an engine answer here as it did where it was proven?

The answers to a few real images are compared with the recorded ones by their signal to noise
ratio. Two correct engines of one Q/DQ file differ by single quantization steps (35 dB and more);
clipped INT8 sums, swapped channels or a wrong preprocessing fall below 20 dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeres.backends import get_backend
from edgeres.backends.base import BuildConfig, Runner
from edgeres.backends.classifier import check_images, fed_batches, single_input
from edgeres.backends.sidecar import read_engine
from edgeres.data.preprocess import Preprocess
from edgeres.data.sample_file import read_sample
from edgeres.data.types import Sample
from edgeres.errors import GateError
from edgeres.sqnr import sqnr_db
from edgeres.system.child import run_limited
from edgeres.tasks.kept import kept

MIN_SQNR_DB = 25.0
TRIAL_SECONDS = 300.0
MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class SelfTest:
    """Outcome of a self-test: ``sqnr_db`` is infinite where all scores are equal to the bit."""

    samples: int
    sqnr_db: float

    def to_dict(self) -> dict[str, float | int | None]:
        """As JSON values; equal scores give ``None``, as in ``report.json``."""
        return {
            "samples": self.samples,
            "sqnr_db": None if math.isinf(self.sqnr_db) else self.sqnr_db,
        }


def answer(runner: Runner, images: Sequence[Sample], preprocess: Preprocess) -> NDArray[np.float32]:
    """What an engine gives for a few samples, each run on its own: ``(S, D)``, all outputs.

    Raises:
        EdgeResError: The images do not fit the engine, or it failed.
    """
    source = single_input(runner)
    rows = []
    for image in images:
        batch = preprocess.apply(image)[None]
        check_images(source, batch)
        for fed, count in fed_batches(runner, batch):
            found = runner.infer({source.name: fed})
            values = [kept(found[spec.name])[:count] for spec in runner.outputs]
            rows.append(np.concatenate(values, axis=1))
    return np.concatenate(rows)


def compare(
    expected: NDArray[np.float32], got: NDArray[np.float32], who: str, *, cure: str = ""
) -> SelfTest:
    """Compares the answers with the recorded ones.

    Args:
        expected: ``(S, D)``, finite.
        got: What the engine answered here.
        who: For the message.
        cure: What to do where they differ, a sentence.

    Raises:
        GateError: Other shapes, NaN, or answers that differ too much.
    """
    if got.shape != expected.shape or not np.isfinite(got).all():
        raise GateError(
            f"{who}: the self-test gives answers of shape {got.shape} with "
            f"{int((~np.isfinite(got)).sum())} that are not finite, expected {expected.shape}.",
            hint=f"The engine does not work on this device. {cure}".strip(),
        )
    found_db = sqnr_db(expected, got)
    if found_db < MIN_SQNR_DB:
        raise GateError(
            f"{who}: the self-test gives other answers than where the engine was proven: "
            f"SQNR {found_db:.1f} dB, at least {MIN_SQNR_DB:g} dB expected.",
            hint=cure,
        )
    return SelfTest(len(expected), found_db)


def answer_isolated(
    engine: Path,
    device: str,
    samples: Sequence[Path],
    preprocess: Preprocess,
) -> NDArray[np.float32]:
    """Loads an engine and lets it answer in a child process, which may crash, hang or run wild.

    Args:
        engine: Engine file with its sidecar.
        device: Where to run it.
        samples: Image files, or ``.npy`` files of features.
        preprocess: How an image becomes numbers.

    Raises:
        StageError: The child crashed or hit a limit.
        EdgeResError: What loading or running raised.
    """
    answer_there = run_limited(
        answer_files,
        seconds=TRIAL_SECONDS,
        memory_bytes=MEMORY_BYTES if device == "cpu" else None,
    )
    return np.asarray(answer_there(engine, device, samples, preprocess), dtype=np.float32)


def answer_files(
    engine: Path, device: str, samples: Sequence[Path], preprocess: Preprocess
) -> list[list[float]]:
    """What the child does: the scores, NaN and infinity included."""
    found = read_engine(engine)
    images = [read_sample(path) for path in samples]
    with get_backend(found.backend).load(found, BuildConfig(device=device)) as runner:
        scores: list[list[float]] = answer(runner, images, preprocess).astype(float).tolist()
    return scores
