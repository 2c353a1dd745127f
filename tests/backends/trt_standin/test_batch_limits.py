"""Any number of images through a plan whose profile takes from one size to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeres.backends import get_backend
from edgeres.backends.base import BatchLimits, BuildConfig, Engine, ShapeRange
from edgeres.backends.isolate import run_file
from edgeres.backends.sidecar import read_engine
from edgeres.bundling.selftest import answer
from edgeres.data.arrays import ArrayDataset
from edgeres.data.preprocess import Preprocess
from edgeres.evaluation.predict import BATCH, predict
from edgeres.evaluation.validate import validate

from . import tensorrt_module

BACKEND = get_backend("tensorrt")
CUDA = BuildConfig("cuda:0")
PLAIN = Preprocess(scale=1.0, mean=(60.0,), channels=1)
PICTURES = np.arange(10 * 16, dtype=np.uint8).reshape(10, 4, 4)
SEEN = PICTURES.astype(np.float32) - 60
SCORES = np.stack([SEEN.sum((1, 2)), SEEN.max((1, 2))], 1)  # of both classes: dark and bright
DATA = ArrayDataset("pictures", PICTURES, SCORES.argmax(1), ("a", "b"))


@pytest.fixture(params=[1, 3])
def smallest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Fewest images of the stand-in's profile; it always takes 4 at most."""
    monkeypatch.setattr(tensorrt_module, "MIN_BATCH", request.param)
    return int(request.param)


@pytest.fixture
def engine(install: Callable[[str], Any], qdq_file: Path, smallest: int) -> Engine:
    install("10")
    ranges = {"input": ShapeRange((smallest, 1, 4, 4), (4, 1, 4, 4), (4, 1, 4, 4))}
    config = BuildConfig("cuda:0", shapes=ranges)
    return BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)


def test_the_sidecar_keeps_what_the_engine_takes(engine: Engine, smallest: int) -> None:
    assert read_engine(engine.path).shapes == engine.shapes
    assert engine.shapes["input"].min == (smallest, 1, 4, 4)
    with BACKEND.load(engine, CUDA) as runner:
        assert runner.batch_limits == BatchLimits(smallest, 4)


def test_max_batch_is_kept_as_a_range(install: Callable[[str], Any], qdq_file: Path) -> None:
    install("10")
    config = BuildConfig("cuda:0", options={"max_batch": "32"})
    built = BACKEND.build(qdq_file, qdq_file.with_suffix(".plan"), config)
    assert built.shapes["input"].max == (32, 1, 4, 4)


def test_a_data_set_goes_through(engine: Engine) -> None:
    assert BATCH > 4
    with BACKEND.load(engine, CUDA) as runner:
        answers = predict(runner, DATA, PLAIN, batch_size=BATCH)
    np.testing.assert_allclose(answers.logits, SCORES, rtol=1e-6)


def test_validate_goes_through(engine: Engine) -> None:
    with BACKEND.load(engine, CUDA) as runner:
        reference = predict(runner, DATA, PLAIN, name="reference")
    found = validate(engine.path, DATA, PLAIN, baseline=reference)
    np.testing.assert_array_equal(found.predictions.logits, reference.logits)


def test_trial_and_self_test_go_through(engine: Engine) -> None:
    run_file(engine.path, "cuda:0")
    with BACKEND.load(engine, CUDA) as runner:
        scores = answer(runner, [Image.fromarray(p) for p in PICTURES[:2]], PLAIN)
    np.testing.assert_allclose(scores, SCORES[:2], rtol=1e-6)
