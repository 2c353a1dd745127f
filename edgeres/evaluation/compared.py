"""The two models of a comparison: what each is, what it was built from, and where they meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from edgeres.backends.base import Backend, Engine
from edgeres.backends.fit import executable_backend
from edgeres.backends.isolate import try_engine
from edgeres.backends.sidecar import read_engine, sidecar_path
from edgeres.errors import ArtefactError, ModelError
from edgeres.evaluation.distances import Distance
from edgeres.evaluation.inspect import source_of
from edgeres.evaluation.points import Point, find_points, is_quantized
from edgeres.evaluation.tensors import EngineInside
from edgeres.graph.layers import load_model
from edgeres.quantization.isolate import try_model

Distances = dict[str, Distance]


@dataclass
class Model:
    """One of the two: its ONNX file, and the engine that was built from it, if it is one."""

    path: Path
    onnx: Path
    graph: ir.Model
    engine: Engine | None
    backend: Backend | None
    points: tuple[Point, ...] = ()
    inside: EngineInside | None = None
    sums: Mapping[str, Distances] = field(
        default_factory=lambda: {"whole": {}, "own": {}}  # engine against its simulated source
    )

    @property
    def outputs(self) -> tuple[Point, ...]:
        """The points that are outputs of the network, in their order."""
        return tuple(point for point in self.points if point.is_output)


def open_model(path: Path, near: Sequence[Path], *, isolate: bool) -> Model:
    """Reads an ONNX file, or an engine with its sidecar and its source.

    Args:
        path: Of the model.
        near: Where the source of an engine may lie.
        isolate: Whether it first runs once in a child process.

    Raises:
        ArtefactError: It is neither, or the engine's source is not found.
        BackendMissingError: The engine cannot run on this machine.
        ModelError: The file cannot be read.
        StageError: It crashed or hung in its trial.
    """
    if not sidecar_path(path).is_file():
        if path.suffix != ".onnx":
            raise ArtefactError(
                f"{path}: expected an ONNX file, or an engine with its sidecar beside it.",
                hint="`edgeres convert` and `edgeres build` write both.",
            )
        if isolate and path.is_file():
            try_model(path)
        return Model(path, path, load_model(path, may_be_quantized=True), None, None)
    engine = read_engine(path)
    backend = executable_backend(engine)
    onnx = _source(engine, near)
    if isolate:
        try_engine(path)
        try_model(onnx)
    graph = load_model(onnx, may_be_quantized=True)
    return Model(path, onnx, graph, engine, backend)


def _source(engine: Engine, near: Sequence[Path]) -> Path:
    for onnx in near:
        try:
            return source_of(engine, onnx)
        except ArtefactError:
            continue
    return source_of(engine)


def choose_points(first: Model, second: Model) -> None:
    """Sets the points of both: tensors that both have and, where one is INT8, that it stores.

    Raises:
        ModelError: The two have different outputs.
    """
    stored = [
        _inner(find_points(model.graph))
        for model in (first, second)
        if model.engine is not None or is_quantized(model.graph)
    ] or [_inner(find_points(first.graph))]
    common = set.intersection(*stored)
    for model in (first, second):
        model.points = find_points(model.graph, common)
    both = {p.tensor for p in first.points} & {p.tensor for p in second.points}
    outputs = [[p.tensor for p in model.outputs] for model in (first, second)]
    if outputs[0] != outputs[1]:
        names = [", ".join(found) for found in outputs]
        raise ModelError(
            f"{first.path} gives {names[0]}, {second.path} gives {names[1]}: these are not "
            "forms of one network.",
            hint="Compare models that were made from the same FP32 ONNX file.",
        )
    for model in (first, second):
        model.points = find_points(model.graph, both)


def _inner(points: Sequence[Point]) -> set[str]:
    return {point.tensor for point in points if not point.is_output}
