"""How a device answers images; see :mod:`edgeres.devices.program`.

Images come fitted to the network's size, as bytes, with the normalization still to do; of sounds
their spectrograms come, and features as they are. The answers go back whole and are judged where
the baseline is.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from edgeres.backends.base import BuildConfig
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.data.arrays import ArrayDataset
from edgeres.data.feature_set import FeatureSet
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.devices.raw_answers import RawTask
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.predict import BATCH, predict
from edgeres.system.foreign_json import parse_json


def answer(
    engine_path: Path, images: Path, out: Path, threads: int | None, *, raw: bool = False
) -> None:
    """Runs an engine over packed images and writes its predictions.

    Args:
        engine_path: The engine, with its sidecar beside it.
        images: ``.npz`` with ``samples`` ``(N, H, W[, 3]) uint8``, or features ``(N, ...)
            float32``; ``labels`` ``(N,) int64``; and ``preprocess``, JSON as uint8.
        out: Where the predictions (``.npz``) go.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        raw: Whether all outputs go back as they are, for a network that is no classifier.

    Raises:
        EdgeResError: As :func:`edgeres.evaluation.predict.predict` and the backend's ``load``.
    """
    engine = read_engine(engine_path)
    with np.load(images, allow_pickle=False) as packed:
        preprocess = Preprocess.from_dict(parse_json(packed["preprocess"].tobytes()))
        samples, labels = packed["samples"], packed["labels"]
        dataset: Dataset = (
            FeatureSet("packed", samples, np.arange(len(samples)), labels, (), {"": labels}, ("",))
            if preprocess.features
            else ArrayDataset("packed", samples, labels)
        )
    ask = partial(answer_set, task=RawTask()) if raw else predict
    config = BuildConfig(device=engine.device, threads=threads)
    with executable_backend(engine).load(engine, config) as runner:
        found = ask(
            runner,
            dataset,
            preprocess,
            batch_size=BATCH,
            name=engine_path.name,
            model_sha256=engine.source_sha256,
        )
    found.save(out)
