"""How much faster do two workers validate than one, and are the digits the same?

Makes images of noise in the engine's size, so that only an engine is needed, and validates them
with one and with two single-threaded workers, several times in turns. Starting the processes does
not count; opening the images and the engine in each does. Run it on a quiet machine.

    python benchmarks/scale_out.py runs/r50/onnxruntime.onnx --images 400
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.backends.base import BuildConfig
from edgeres.backends.classifier import single_input
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.data.preprocess import Preprocess
from edgeres.devices.workers import predict_sharded
from edgeres.evaluation.predict import BATCH
from edgeres.system.environment import describe_environment

_TARGET = 0.6


def timed(engine: Path, data: str, preprocess: Preprocess, address: str) -> tuple[float, str]:
    """Seconds of one validation by the workers of a running cluster, and its digest."""
    start = time.perf_counter()
    found = predict_sharded(engine, data, preprocess, scheduler=address, shard=BATCH)
    return time.perf_counter() - start, found.digest


def main() -> int:
    """Prints both times and whether the answers are equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    engine = read_engine(options.engine)
    with executable_backend(engine).load(engine, BuildConfig()) as runner:
        shape = single_input(runner).shape
        classes = int(runner.outputs[0].shape[-1] or 2)
    channels, height, width = (int(size or 1) for size in shape[1:])
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npz"
        size = (options.images, height, width, *([3] if channels == 3 else []))
        labels = rng.integers(0, classes, options.images)
        labels[0] = classes - 1  # so that the set has as many classes as the engine
        np.savez(file, images=rng.integers(0, 256, size, np.uint8), labels=labels)
        preprocess = Preprocess(channels=channels)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        digests = set()
        distributed: Any = importlib.import_module("distributed")
        for _ in range(options.repeat):
            for workers in (1, 2):
                with distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None
                ) as cluster:
                    took, digest = timed(
                        options.engine, f"npz:{file}", preprocess, cluster.scheduler_address
                    )
                seconds[workers].append(took)
                digests.add(digest)
    machine = describe_environment()
    print(f"{options.engine.name}, {options.images} images, {machine.cpu}, {machine.threads} CPUs")
    for workers in (1, 2):
        print(f"{workers} workers: {', '.join(f'{took:.2f}' for took in seconds[workers])} s")
    one, two = min(seconds[1]), min(seconds[2])
    print(f"two over one: {two / one:.2f} (at most {_TARGET} asked)")
    print(f"{1000 * one / options.images:.2f} ms an image; digits equal: {len(digests) == 1}")
    return 0 if two <= _TARGET * one and len(digests) == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
