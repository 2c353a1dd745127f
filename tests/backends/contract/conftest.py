"""Each backend with its real runtime, an engine of the small network, and the right answers."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeres.backends import backend_names, get_backend
from edgeres.backends.base import Backend, BuildConfig, Engine, Runner
from edgeres.backends.sidecar import read_engine

from ..conftest import CLASSES

REFERENCES = ("pytorch",)  # built from a checkpoint, not from ONNX
NO_ARITHMETIC = ("null",)


@pytest.fixture(scope="session", params=backend_names())
def backend(request: pytest.FixtureRequest) -> Backend:
    found = get_backend(request.param)
    reason = found.missing()
    if reason is not None:
        pytest.skip(f"{found.name}: {reason}")
    return found


@pytest.fixture(scope="session")
def source(backend: Backend, request: pytest.FixtureRequest) -> Path:
    """What the backend builds from: the FP32 ONNX file, or the checkpoint of a reference."""
    fixture = "checkpoint" if backend.name in REFERENCES else "network"
    return request.getfixturevalue(fixture)


@pytest.fixture(scope="session")
def engine(backend: Backend, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    out = tmp_path_factory.mktemp(backend.name) / f"net{backend.engine_suffix}"
    return backend.build(source, out, on(backend))


@pytest.fixture
def copied(engine: Engine, tmp_path: Path) -> Engine:
    """The engine in a folder of its own, to be damaged."""
    shutil.copytree(engine.path.parent, tmp_path / "copy")
    return read_engine(tmp_path / "copy" / engine.path.name)


@pytest.fixture
def runner(backend: Backend, engine: Engine) -> Runner:
    executable(backend)
    with backend.load(engine, on(backend)) as loaded:
        yield loaded


def on(backend: Backend, **settings) -> BuildConfig:
    device = (*backend.devices(), backend.default_device)[0]
    return BuildConfig(device=device, threads=1, **settings)


def executable(backend: Backend) -> None:
    reason = backend.not_executable()
    if reason is not None:
        pytest.skip(f"{backend.name}: {reason}")


def has_arithmetic(backend: Backend) -> None:
    if backend.name in NO_ARITHMETIC:
        pytest.skip(f"{backend.name}: computes nothing")


def right_answer(
    backend: Backend, source: Path, images: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits by something other than the backend's runtime."""
    if backend.name in NO_ARITHMETIC:
        return np.zeros((len(images), CLASSES), np.float32)
    if backend.name in REFERENCES:
        import torch

        from edgeres.models.checkpoint import load_checkpoint, load_module

        with torch.no_grad():
            return load_module(load_checkpoint(source))(torch.from_numpy(images)).numpy()
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(str(source)).run(None, {"input": images})[0]


def digests(folder: Path) -> dict[str, str]:
    files = {p.name: p for p in folder.iterdir()}
    return {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()}
