"""Reads and runs an ONNX model from elsewhere in a child process, before this one touches it.

Parsing, shape inference and ONNX Runtime are native code; a hostile or damaged file may crash them,
hang them or make them take all memory. Here that ends a child, and the parent reports. The file is
read as :mod:`edgeres.graph.external_data` says: weights only from plain files beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgeres.backends import isolate
from edgeres.errors import ModelError
from edgeres.system.child import P, T, run_limited


def try_model(path: Path) -> None:
    """Runs an ONNX model once on zeros, as it is written and as ONNX Runtime optimizes it.

    Args:
        path: The ONNX file.

    Raises:
        ModelError: It is not safe, or no model that ONNX Runtime takes.
        StageError: It crashed, hung or hit a limit.
    """
    _limited(run_file)(path)


def input_shape(path: Path) -> tuple[int | None, ...]:
    """Shape of the first input of an ONNX model, a free size as ``None``; parsed in the child.

    Raises:
        ModelError: It is not safe, or no model.
        StageError: It crashed, hung or hit a limit.
    """
    return tuple(_limited(read_file)(path))


def _limited(function: Callable[P, T]) -> Callable[P, T]:
    return run_limited(function, seconds=isolate.TRIAL_SECONDS, memory_bytes=isolate.MEMORY_BYTES)


def read_file(path: Path) -> list[int | None]:
    """What the child of :func:`input_shape` does."""
    from edgeres.graph.external_data import load_self_contained

    load_self_contained(path)
    return list(_first_input(path))


def run_file(path: Path) -> None:
    """What the child of :func:`try_model` does; a model with open sizes is loaded and not run."""
    from edgeres.graph.external_data import load_self_contained
    from edgeres.graph.session import open_session, run_session

    model = load_self_contained(path).SerializeToString()
    free, *sizes = _first_input(path) or (None, None)
    for optimize in (False, True):
        session = open_session(model, optimize=optimize)
        if None not in sizes:
            run_session(session, np.zeros((free or 1, *(n or 1 for n in sizes)), np.float32))


def _first_input(path: Path) -> tuple[int | None, ...]:
    from edgeres.graph.summary import summarize

    inputs = summarize(path).inputs
    if not inputs:
        raise ModelError(
            f"{path}: the model has no input.", hint="Export a network that takes images."
        )
    return inputs[0].shape
