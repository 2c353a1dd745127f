"""The tensors inside a model while it runs: of an ONNX file as it is written, or of an engine.

An engine gives its outputs and nothing else. To see inside, a probing engine is built from the same
ONNX file with further outputs: tensors behind a DequantizeLinear, which the engine stores anyway,
so that fusion stays as it was. That it did is not assumed but shown: the probing engine must give
the outputs of the original to the last bit. Where it does not, the tensors are spread over more
probing engines, down to one for each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.backends import isolate
from edgeres.backends.base import Backend, BuildConfig, Engine, Runner
from edgeres.backends.classifier import fed_batches, single_input
from edgeres.errors import EdgeResError
from edgeres.evaluation.points import Point
from edgeres.evaluation.rebuild_config import built_like
from edgeres.graph.layers import activations, load_model, value_name
from edgeres.graph.session import open_session, run_session
from edgeres.quantization.forward import infer_shapes
from edgeres.system.closing import Closing
from edgeres.system.files import write_atomic
from edgeres.system.temporary import temporary_folder

Tensors = dict[str, NDArray[np.float32]]


class Inside(Protocol):
    """A model that gives its tensors by their names in the FP32 graph, its outputs among them."""

    def run(self, images: NDArray[np.float32]) -> Tensors:
        """Runs images ``(N, C, H, W) float32``; each tensor comes as float32."""
        ...


class OnnxInside:
    """An ONNX model, run by ONNX Runtime in float exactly as it is written."""

    def __init__(self, path: Path, points: Sequence[Point], *, threads: int | None = None) -> None:
        self._points = points
        model = exposed(path, points)
        self._session = open_session(
            ir.to_proto(model).SerializeToString(), threads=threads, optimize=False
        )

    def run(self, images: NDArray[np.float32]) -> Tensors:
        """See :class:`Inside`."""
        outputs = run_session(self._session, images)
        return {point.tensor: outputs[point.value].astype(np.float32) for point in self._points}


@dataclass(frozen=True)
class _Probe:
    """A loaded probing engine and what its further outputs are."""

    runner: Runner
    points: Sequence[Point]


class EngineInside(Closing):
    """A built engine with its probing engines; a context manager, since it holds them loaded.

    Attributes:
        altered: Tensors whose probing engine gives other outputs than the original: what they
            tell holds for that engine only.
        hidden: Tensors for which no probing engine could be built, with the reason.
        probes: Number of probing engines.
    """

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        source: Path,
        points: Sequence[Point],
        first: NDArray[np.float32],
        *,
        threads: int | None = None,
        isolate: bool = False,
    ) -> None:
        """Builds and checks the probing engines.

        Args:
            engine: The engine.
            backend: Its backend.
            source: ONNX file that it was built from.
            points: Points of that file, its outputs among them.
            first: Some images, to check each probing engine with.
            threads: CPU threads; ``None`` leaves the choice to the runtime.
            isolate: Whether to build in a child process, for a model from elsewhere.

        Raises:
            EdgeResError: As the backend's ``build`` and ``load``.
        """
        self.altered: set[str] = set()
        self.hidden: dict[str, str] = {}
        self._probes: list[_Probe] = []
        self._source = source
        self._backend = backend
        self._isolate = isolate
        self._config = built_like(engine, backend, source, threads=threads)
        as_given = BuildConfig(device=engine.device, threads=threads)
        self._outputs = [point for point in points if point.is_output]
        self._stack = ExitStack()
        with ExitStack() as stack:
            self._folder = stack.enter_context(temporary_folder())
            self._original = stack.enter_context(backend.load(engine, as_given))
            self._input = single_input(self._original)
            self._own = len(self._original.outputs)
            inner = [point for point in points if not point.is_output]
            self._probe(stack, inner, first, self._answer(self._original, first))
            self._stack = stack.pop_all()

    @property
    def probes(self) -> int:
        """Number of probing engines."""
        return len(self._probes)

    def run(self, images: NDArray[np.float32]) -> Tensors:
        """See :class:`Inside`; hidden tensors are left out."""
        outputs = self._answer(self._original, images)
        tensors: Tensors = {}
        for probe in self._probes:
            answer = self._answer(probe.runner, images)
            own, values = answer[: self._own], answer[self._own :]
            if not _equal(own, outputs):
                self.altered.update(point.tensor for point in probe.points)
            tensors |= {p.tensor: v for p, v in zip(probe.points, values, strict=True)}
        named = {s.name: v for s, v in zip(self._original.outputs, outputs, strict=True)}
        return tensors | {point.tensor: named[point.value] for point in self._outputs}

    def close(self) -> None:
        """Frees all engines and removes the probing ones."""
        self._stack.close()

    def _probe(
        self,
        stack: ExitStack,
        points: list[Point],
        images: NDArray[np.float32],
        outputs: list[NDArray[np.float32]],
    ) -> None:
        """Makes probing engines for some points, as few as leave the outputs as they are."""
        if not points:
            return
        half = len(points) // 2
        try:
            runner = self._build(points)
        except EdgeResError as error:
            if not half:
                self.hidden[points[0].tensor] = error.message
                return
        else:
            same = _equal(self._answer(runner, images)[: self._own], outputs)
            if same or not half:
                stack.callback(runner.close)
                self._probes.append(_Probe(runner, points))
                if not same:
                    self.altered.add(points[0].tensor)
                return
            runner.close()
        self._probe(stack, points[:half], images, outputs)
        self._probe(stack, points[half:], images, outputs)

    def _build(self, points: Sequence[Point]) -> Runner:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        onnx = folder / "probe.onnx"
        model = exposed(self._source, points)
        write_atomic(onnx, ir.to_proto(model).SerializeToString())
        out = folder / f"engine{self._backend.engine_suffix}"
        if self._isolate:
            engine = isolate.build_isolated(onnx, out, self._backend.name, self._config)
        else:
            engine = self._backend.build(onnx, out, self._config)
        return self._backend.load(engine, self._config)

    def _answer(self, runner: Runner, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """All outputs in the order of the graph; in pieces that the engine takes."""
        pieces: list[list[NDArray[np.float32]]] = []
        for fed, count in fed_batches(runner, images):
            outputs = runner.infer({self._input.name: fed})
            pieces.append([outputs[s.name][:count].astype(np.float32) for s in runner.outputs])
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


def _equal(one: Sequence[NDArray[np.float32]], two: Sequence[NDArray[np.float32]]) -> bool:
    """Whether all are equal to the last bit, NaN included."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))


def exposed(path: Path, points: Sequence[Point]) -> ir.Model:
    """The model of a file with the points as further outputs behind its own, in their order.

    Raises:
        ModelError: The file cannot be read.
    """
    model = load_model(path, may_be_quantized=True)
    infer_shapes(model)
    values = {value_name(value): value for value in activations(model.graph)}
    own = {value_name(value) for value in model.graph.outputs}
    model.graph.outputs.extend(values[p.value] for p in points if p.value not in own)
    return model
