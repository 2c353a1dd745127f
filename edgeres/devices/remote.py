"""``benchmark`` and ``validate`` on a host: engine over there, figures and answers back here."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.base import Engine
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.data.bad_images import BadImages
from edgeres.data.batches import numbered_batches
from edgeres.data.preprocess import Preprocess
from edgeres.data.types import Dataset
from edgeres.devices.address import SshDevice
from edgeres.devices.host_answer import check_benchmark, read_answer
from edgeres.devices.raw_answers import judged_at_home
from edgeres.devices.runtime import NAME, write_runtime
from edgeres.devices.ssh import Finished, run_on
from edgeres.errors import BackendMissingError, StageError, UsageError
from edgeres.evaluation.predictions import Predictions, load_predictions
from edgeres.system.foreign_json import read_json
from edgeres.system.temporary import temporary_folder
from edgeres.tasks.answers import Answers, load_answers
from edgeres.tasks.task import Task

Say = Callable[[str], None]

_SPARE_S = 120.0  # for loading and warm-up
_VALIDATE_S = 6 * 3600.0
_ENDED_BY_TIMEOUT = 124  # of timeout(1)


def benchmark_on(
    device: SshDevice,
    paths: Sequence[Path],
    *,
    batch_size: int = 1,
    threads: int | None = None,
    seconds: float = 4.0,
    sustained_s: float | None = None,
    say: Say | None = None,
) -> dict[str, Any]:
    """Runs ``edgeres benchmark`` on a host.

    Args:
        device: The host; its Python must have NumPy, Pillow, psutil and the engines' runtimes.
        paths: Engine files, each with its sidecar beside it; the first is the yardstick.
        batch_size: Images in a run.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        seconds: Time measured for each engine.
        sustained_s: Seconds without a pause for each after that; ``None`` for none.
        say: Called when a connection was lost.

    Returns:
        What ``benchmark --json`` prints there, with the engines under their paths here.

    Raises:
        BackendMissingError: The host, its key, or a runtime on it is missing.
        EdgeResError: The error that the command gave there.
    """
    files: dict[str, Path] = {}
    names: dict[str, str] = {}
    for number, path in enumerate(paths):
        prefix = f"engine{number}"
        names[f"{prefix}/{path.name}"] = str(path)
        files |= {
            f"{prefix}/{name}": file for name, file in engine_files(read_engine(path)).items()
        }
    request = {
        "engines": list(names),
        "batch_size": batch_size,
        "threads": threads,
        "seconds": seconds,
        "sustained_s": sustained_s,
    }
    limit = _SPARE_S + len(paths) * (10 * seconds + (sustained_s or 0.0) + 30)
    with temporary_folder() as folder:
        files[NAME] = write_runtime(folder)
        command = ["PYTHON", NAME, "benchmark", json.dumps(request)]
        done = asyncio.run(run_on(device, files, command, seconds=limit, say=say))
    found = check_benchmark(_answer(device, done), list(names), device.name)
    found["engines"] = {names.get(name, name): part for name, part in found["engines"].items()}
    return {"device": device.name, **found}


def predict_on(
    device: SshDevice,
    path: Path,
    dataset: Dataset,
    preprocess: Preprocess,
    *,
    task: Task | None = None,
    threads: int | None = None,
    skipped: BadImages | None = None,
    say: Say | None = None,
) -> Predictions | Answers:
    """Answers of an engine on a host to images that are here.

    Args:
        device: The host.
        path: The engine file, with its sidecar beside it.
        dataset: Labelled images.
        preprocess: How an image becomes numbers.
        task: What the outputs mean; ``None`` for a classifier.
        threads: CPU threads; ``None`` leaves the choice to the runtime.
        skipped: Collects images that cannot be decoded.
        say: Called when a connection was lost.

    Raises:
        BackendMissingError: The host, its key, or a runtime on it is missing.
        EdgeResError: The error that came up there.
    """
    engine = read_engine(path)
    request = {
        "engine": f"engine/{path.name}",
        "images": "images.npz",
        "answers": "answers.npz",
        "threads": threads,
        "raw": task is not None,
    }
    command = ["PYTHON", NAME, "answer", json.dumps(request)]
    with temporary_folder() as folder:
        packed = folder / "images.npz"
        packed.write_bytes(pack(dataset, preprocess, skipped, places=task is not None))
        files = {f"engine/{key}": file for key, file in engine_files(engine).items()}
        files |= {"images.npz": packed, NAME: write_runtime(folder)}
        done = asyncio.run(
            run_on(device, files, command, fetch=["answers.npz"], seconds=_VALIDATE_S, say=say)
        )
        if done.code != 0 or "answers.npz" not in done.files:
            _answer(device, done)
            raise StageError(f"{device.name}: gave no answers.", hint="Run again.")
        (folder / "answers.npz").write_bytes(done.files["answers.npz"])
        found: Predictions | Answers
        if task is None:
            found = load_predictions(folder / "answers.npz")
        else:
            whole = load_answers(folder / "answers.npz")
            found = judged_at_home(whole, task, dataset, preprocess)
    return replace(
        found,
        name=f"{path} on {device.name}",
        data_fingerprint=dataset.fingerprint,
        class_names=tuple(dataset.class_names),
    )


def pack(
    dataset: Dataset, preprocess: Preprocess, skipped: BadImages | None, *, places: bool = False
) -> bytes:
    """Images in the network's size as bytes, with labels and normalization, as one ``.npz``.

    Of sounds the spectrograms travel, and features as they are, ``(N, ...) float32``.

    Args:
        dataset: The samples.
        preprocess: How they become numbers.
        skipped: Collects images that cannot be decoded.
        places: Whether the labels are the places in the set, for who knows the targets at home.

    Raises:
        DataError: A sample is bad (see ``skipped``).
    """
    arrays = preprocess.features or preprocess.log_mel is not None
    # As they are before normalization: with the identity, batches gives the fitted pixels.
    plain = (
        preprocess
        if arrays
        else replace(
            preprocess, scale=1.0, mean=(0.0,), std=(1.0,), channel_order="rgb", layout="nchw"
        )
    )
    samples, labels = [], []
    for batch, rows in numbered_batches(dataset, plain, 256, skipped=skipped):
        samples.append(batch if arrays else _pixels(batch))
        labels.append(rows if places else dataset.labels[rows])
    buffer = io.BytesIO()
    whole = replace(preprocess, resize=None, crop=None)
    if arrays:
        whole = replace(whole, features=True, log_mel=None)
    np.savez(
        buffer,
        samples=np.concatenate(samples),
        labels=np.concatenate(labels).astype(np.int64),
        preprocess=np.frombuffer(json.dumps(whole.to_dict()).encode(), np.uint8),
    )
    return buffer.getvalue()


def _pixels(batch: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A batch ``(N, C, H, W)`` of 8-bit values as a set of images has them."""
    pixels = np.moveaxis(batch.astype(np.uint8), 1, -1)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def engine_files(engine: Engine) -> dict[str, Path]:
    """Name to file of everything that an engine needs, its sidecar included."""
    sidecar = sidecar_path(engine.path)
    record = read_json(sidecar)
    return {name: engine.path.with_name(name) for name in (*record["files"], sidecar.name)}


def _answer(device: SshDevice, done: Finished) -> dict[str, Any]:
    """The object that a command answered; its error, if it is one, as the same error here."""
    content = read_answer(done.out, device.name)
    if content is not None:
        return content
    last = (done.err.strip().splitlines() or ["it printed nothing"])[-1][:500]
    if "No module named" in last or done.code in (126, 127):
        raise BackendMissingError(
            f"{device.name}: {device.python} cannot run edgeres there ({last}).",
            hint="It needs Python 3.11 with numpy, pillow, psutil and the engine's runtime: "
            "install them there, or name another Python with --remote-python.",
        )
    if done.code == _ENDED_BY_TIMEOUT:
        raise StageError(
            f"{device.name}: it did not end there in the time that it was given, and was stopped.",
            hint="See what else the host does; give fewer engines at once, or a longer --seconds.",
        )
    raise StageError(
        f"{device.name}: the command ended with {done.code} and no answer: {last}.",
        hint="See the host.",
    )


def check_limits(min_int8_coverage: float | None, speed: object) -> None:
    """Refuses limits that a host does not measure.

    Raises:
        UsageError: Coverage or latency is asked for.
    """
    if min_int8_coverage is not None or speed:
        raise UsageError(
            "over ssh, validate measures accuracy and size only.",
            hint="Use `edgeres inspect` for coverage and `edgeres benchmark --device` for latency.",
        )
