"""CUDA graphs of an engine's runs: one for each shape, a bounded number, the least used goes first.

A graph holds the memory of the execution context that it was recorded from, and that context's
shapes. So each graph has a context of its own, as NVIDIA's documentation of CUDA graphs with
TensorRT asks for.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from edgeres.backends.tensorrt.cuda import CudaSession
from edgeres.backends.tensorrt.execution import Execution
from edgeres.backends.tensorrt.signature import Shape, Shapes

MOST_GRAPHS = 8
"""Graphs that a stream keeps: each has its own scratch memory on the GPU."""


@dataclass
class Replay:
    """A recorded run.

    Attributes:
        execution: The execution context that it was recorded from.
        graph: The graph's handle.
        output_shapes: By name.
    """

    execution: Execution
    graph: int
    output_shapes: dict[str, Shape]


class GraphCache:
    """The graphs of one stream, by the shapes of the inputs."""

    def __init__(self, session: CudaSession) -> None:
        self._session = session
        self._kept: OrderedDict[Shapes, Replay | None] = OrderedDict()

    def __contains__(self, shapes: Shapes) -> bool:
        return shapes in self._kept

    def get(self, shapes: Shapes) -> Replay | None:
        """The graph for these shapes, which is the last used now; ``None`` if it has none."""
        if shapes in self._kept:
            self._kept.move_to_end(shapes)
        return self._kept.get(shapes)

    def put(self, shapes: Shapes, replay: Replay | None) -> None:
        """Keeps a graph, or that these shapes cannot be recorded; no run may be under way."""
        self._kept[shapes] = replay
        while len(self._kept) > MOST_GRAPHS:
            self._drop(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Frees all."""
        while self._kept:
            self._drop(self._kept.popitem()[1])

    def _drop(self, replay: Replay | None) -> None:
        if replay is not None:
            self._session.drop_graph(replay.graph)
            replay.execution.release()
