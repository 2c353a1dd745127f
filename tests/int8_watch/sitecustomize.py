"""Notes that an engine with INT8 arithmetic was opened, in this process and in its children.

Python imports a module of this name at its start when it finds one, so with this folder on
``PYTHONPATH`` every Python process that a test starts is watched too. Each note is one byte more in
the file that ``EDGERES_INT8_SEEN`` names; ``tests/both_cpus.py`` looks whose byte it was.

Noted are sessions of ONNX Runtime with its optimizations (without them Q/DQ runs in float), models
that OpenVINO reads or compiles, and questions whether sums saturate here, whose answer differs from
CPU to CPU even where nothing is run afterwards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

FILE = "EDGERES_INT8_SEEN"
#: Set by ``benchmarks/without_vnni.py`` in what it starts.
HIDDEN = "WITHOUT_VNNI_CPUINFO"
#: What only files with INT8 hold: ONNX's operators, OpenVINO's, and its INT8 constants.
MARKS = (b"QuantizeLinear", b"QLinear", b"FakeQuantize", b'element_type="i8"')


def note() -> None:
    """One byte more in the file, where one is named."""
    name = os.environ.get(FILE)
    if name and HIDDEN not in os.environ:  # what runs there has run on both kinds
        try:
            with Path(name).open("ab") as file:
                file.write(b".")
        except OSError:
            return  # the run that named it is over, or the test made the disk full


def is_int8(model: object) -> bool:
    """Whether a path or the bytes of a model hold INT8 operators."""
    if isinstance(model, str | os.PathLike):
        try:
            model = Path(model).read_bytes()
        except OSError:
            return False  # opening it will say what is wrong
    return isinstance(model, bytes) and any(mark in model for mark in MARKS)


def watch_onnxruntime(module: ModuleType) -> None:
    """Notes sessions of INT8 models."""
    real = module.InferenceSession.__init__

    @wraps(real)
    def opened(self: Any, model: Any, sess_options: Any = None, *more: Any, **named: Any) -> None:
        level = getattr(sess_options, "graph_optimization_level", None)
        if level != module.GraphOptimizationLevel.ORT_DISABLE_ALL and is_int8(model):
            note()
        real(self, model, sess_options, *more, **named)

    module.InferenceSession.__init__ = opened


def watch_openvino(module: ModuleType) -> None:
    """Notes INT8 models that are read or compiled from a file."""
    for name in ("read_model", "compile_model"):
        setattr(module.Core, name, _noting(getattr(module.Core, name)))


def _noting(real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def read(self: Any, model: Any, *more: Any, **named: Any) -> Any:
        if is_int8(model):
            note()
        return real(self, model, *more, **named)

    return read


def watch_probe(module: ModuleType) -> None:
    """Notes every question, also one whose answer is known from before."""
    real = module.saturates

    @wraps(real)
    def asked(*arguments: Any, **named: Any) -> Any:
        note()
        return real(*arguments, **named)

    module.saturates = asked


WATCHED = {
    "onnxruntime": watch_onnxruntime,
    "openvino": watch_openvino,
    "edgeres.backends.probe": watch_probe,
}


class Finder(MetaPathFinder):
    """Hands the real module on and watches it once it is there."""

    def __init__(self) -> None:
        self._looking: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The real module's spec with a loader that watches; ``None`` for all other modules."""
        if fullname not in WATCHED or fullname in self._looking:
            return None
        self._looking.add(fullname)
        try:
            spec = find_spec(fullname)
        finally:
            self._looking.discard(fullname)
        if spec is not None and spec.loader is not None:
            _watch_after(spec.loader, WATCHED[fullname])
        return spec


def _watch_after(loader: Loader, watch: Callable[[ModuleType], None]) -> None:
    real = loader.exec_module

    def run(module: ModuleType) -> None:
        real(module)
        watch(module)

    loader.exec_module = run  # type: ignore[method-assign]


def start() -> None:
    """Watches what is imported from now on, and what is there already."""
    sys.meta_path.insert(0, Finder())
    for name, watch in WATCHED.items():
        if name in sys.modules:
            watch(sys.modules[name])


if FILE in os.environ:
    start()
