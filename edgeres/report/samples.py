"""What the page shows of single samples and of their spread, for any task but classes.

``convert`` keeps it in ``evidence/TARGET-samples.json``: the samples on which an engine loses most,
with what both models say of them, and how figures are spread over the samples.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgeres.system.files import write_atomic
from edgeres.system.stored_json import read_stored

if TYPE_CHECKING:
    from edgeres.data.types import Dataset

SAMPLES = "-samples.json"  # behind a target's name
_BINS = 40
_TAIL = 0.2  # percent of the numbers at each end that share the outermost bin


@dataclass(frozen=True)
class WorstSample:
    """One sample on which the engine differs from the FP32 network.

    Attributes:
        index: Its place in the set.
        name: Its name there.
        fp32: What the task reads from the FP32 network's outputs.
        engine: What it reads from the engine's.
        lost: How much worse the engine is, in the metric's unit; ``None`` where the metric is none
            of single samples.
        sqnr_db: Signal to noise of its outputs; ``None`` where they hold NaN or Inf.
        image: File of its picture, where it is an image.
        maps: Files of what both models say of each pixel, where they do.
    """

    index: int
    name: str
    fp32: str
    engine: str
    lost: float | None
    sqnr_db: float | None
    image: str | None = None
    maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spread:
    """How some numbers are spread, in equal bins.

    Attributes:
        title: What the numbers are.
        low: Where the first bin begins.
        high: Where the last one ends.
        shares: Percent of the numbers in each bin, by model (``FP32``, ``engine``) and by kind.
    """

    title: str
    low: float
    high: float
    shares: Mapping[str, Mapping[str, tuple[float, ...]]]


@dataclass(frozen=True)
class SampleEvidence:
    """All of one target.

    Attributes:
        metric: What ``lost`` is of, with its unit; empty where samples have no figure.
        worst: The samples, the worst first.
        spreads: How figures are spread.
    """

    metric: str = ""
    worst: tuple[WorstSample, ...] = ()
    spreads: tuple[Spread, ...] = ()


def sample_name(samples: Dataset, index: int) -> str:
    """Name of one sample as people know it: data sets quote the paths of files for messages."""
    name = samples.image_name(index)
    return str(ast.literal_eval(name)) if name[:1] in {"'", '"'} else name


def spread_of(title: str, models: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Spread | None:
    """Counts numbers in bins that all models share; ``None`` where there is nothing to see.

    Args:
        title: What the numbers are.
        models: For each model and kind of number the numbers, ``(N,)``; NaN and Inf are left out.
    """
    finite = {
        model: {kind: values[np.isfinite(values)] for kind, values in kinds.items()}
        for model, kinds in models.items()
    }
    every = [values for kinds in finite.values() for values in kinds.values() if len(values)]
    if not every:
        return None
    whole = np.concatenate(every)
    low, high = (float(edge) for edge in np.percentile(whole, [_TAIL, 100 - _TAIL]))
    if not low < high:
        return None
    shares = {
        model: {
            kind: tuple(
                round(100 * int(count) / max(1, len(values)), 3)
                for count in np.histogram(np.clip(values, low, high), _BINS, (low, high))[0]
            )
            for kind, values in kinds.items()
        }
        for model, kinds in finite.items()
    }
    return Spread(title, low, high, shares)


def write_samples(folder: Path, target: str, evidence: SampleEvidence) -> None:
    """Writes the file of one target.

    Raises:
        StorageError: It cannot be written.
    """
    text = json.dumps(asdict(evidence), indent=1)
    write_atomic(folder / f"{target}{SAMPLES}", (text + "\n").encode())


def read_samples(folder: Path, target: str) -> SampleEvidence | None:
    """Reads what :func:`write_samples` wrote; ``None`` where there is no such file.

    Raises:
        ArtefactError: It is damaged.
    """
    path = folder / f"{target}{SAMPLES}"
    return read_stored(path, SampleEvidence) if path.is_file() else None
