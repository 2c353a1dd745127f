"""What a device runs to answer images: ``python -m edgeres.devices.answer ENGINE IMAGES ANSWERS``.

The images come fitted to the network's size, as bytes, with the normalization still to do; the
answers go back whole and are judged where the baseline is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgeres.backends.base import BuildConfig
from edgeres.backends.sidecar import read_engine
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import EdgeResError
from edgeres.evaluation.predict import predict
from edgeres.evaluation.validate import BATCH, executable_backend


def answer(engine_path: Path, images: Path, out: Path, threads: int | None) -> None:
    """Runs an engine over packed images and writes its predictions.

    Args:
        engine_path: The engine, with its sidecar beside it.
        images: ``.npz`` with ``images`` ``(N, H, W[, 3]) uint8``, ``labels`` ``(N,) int64`` and
            ``preprocess``, JSON as uint8.
        out: Where the predictions (``.npz``) go.
        threads: CPU threads; ``None`` leaves the choice to the runtime.

    Raises:
        EdgeResError: As :func:`edgeres.evaluation.predict.predict` and the backend's ``load``.
    """
    engine = read_engine(engine_path)
    with np.load(images, allow_pickle=False) as packed:
        dataset = ArrayDataset("packed", packed["images"], packed["labels"])
        preprocess = Preprocess.from_dict(json.loads(packed["preprocess"].tobytes()))
    config = BuildConfig(device=engine.device, threads=threads)
    with executable_backend(engine).load(engine, config) as runner:
        found = predict(
            runner,
            dataset,
            preprocess,
            batch_size=BATCH,
            name=engine_path.name,
            model_sha256=engine.source_sha256,
        )
    found.save(out)


def main(arguments: list[str]) -> int:
    """Answers, or prints the error as the command line does with ``--json``."""
    try:
        engine, images, out, threads = arguments
        answer(Path(engine), Path(images), Path(out), None if threads == "-" else int(threads))
    except EdgeResError as error:
        content = {"id": error.error_id, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": {**content, "exit_code": error.exit_code}}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
