"""Runs a Q/DQ model in pieces, so that a layer can be mended before the next is looked at.

A segment is the run of nodes that ends with a node to stop at. Only tensors that a later segment
still reads are kept, for all images at once, so the whole costs one pass, not one per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.errors import StageError
from edgeres.graph.feeds import as_taken
from edgeres.graph.layers import constant, inputs, node_name, value_name
from edgeres.graph.session import open_session
from edgeres.quantization.forward import fixed_batch
from edgeres.system.container_limits import usable_threads

if TYPE_CHECKING:
    import onnxruntime as ort

Tensors = dict[str, NDArray[np.generic]]

#: Images that run at once, over all threads, where the network takes so many.
_IMAGES = 8


@dataclass(frozen=True)
class Segment:
    """Nodes up to and with one to stop at, what they read and what later ones need of them."""

    nodes: tuple[ir.Node, ...]
    reads: tuple[ir.Value, ...]
    gives: tuple[ir.Value, ...]

    @property
    def last(self) -> ir.Node:
        """The node to stop at."""
        return self.nodes[-1]


def segments(graph: ir.Graph, stops: Sequence[str]) -> Iterator[Segment]:
    """Cuts a graph behind each named node; what follows the last one is left out."""
    position = {node: index for index, node in enumerate(graph)}
    last_read = {
        value: max((position[use.node] for use in value.uses()), default=-1)
        for node in graph
        for value in node.outputs
    }
    stop_names = set(stops)
    current: list[ir.Node] = []
    for index, node in enumerate(graph):
        current.append(node)
        if node_name(node) not in stop_names:
            continue
        outputs = {value for member in current for value in member.outputs}
        reads = dict.fromkeys(
            value
            for member in current
            for value in member.inputs
            if value is not None and value not in outputs and constant(value) is None
        )
        gives = [
            value
            for member in current
            for value in member.outputs
            if value in node.outputs or last_read[value] > index
        ]
        yield Segment(tuple(current), tuple(reads), tuple(gives))
        current = []


def run_in_segments(
    model: ir.Model,
    stops: Sequence[str],
    images: NDArray[np.float32],
    visit: Callable[[str, NDArray[Any]], NDArray[Any]],
    *,
    optimize: bool = False,
) -> None:
    """Runs images through a model and stops at some nodes.

    Args:
        model: Any ONNX model with one image input.
        stops: Names of the nodes to stop at.
        images: ``(N, C, H, W) float32``.
        visit: Called with a node's name and its output; what it returns is used in its place.
        optimize: Let ONNX Runtime fold constants and lay float out as it likes, which moves sums by
            float rounding; ops between Q and DQ stay in float.

    Raises:
        StageError: ONNX Runtime failed.
    """
    (image, *_) = inputs(model.graph)
    in_bytes = image.dtype == ir.DataType.UINT8
    live: Tensors = {value_name(image): as_taken("uint8", images) if in_bytes else images}
    parts = list(segments(model.graph, stops))
    needed_after = _needed_after(parts)
    for part, needed in zip(parts, needed_after, strict=True):
        live.update(_run(model, part, live, len(images), optimize=optimize))
        output = value_name(part.last.outputs[0])
        live[output] = visit(node_name(part.last), live[output])
        live = {name: content for name, content in live.items() if name in needed}


def _needed_after(parts: Sequence[Segment]) -> list[set[str]]:
    needed: list[set[str]] = []
    later: set[str] = set()
    for part in reversed(parts):
        needed.append(set(later))
        later |= {value_name(value) for value in part.reads}
    return needed[::-1]


def _run(model: ir.Model, part: Segment, live: Tensors, count: int, *, optimize: bool) -> Tensors:
    from onnx import helper

    constants = {
        value_name(value): value
        for node in part.nodes
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    graph = helper.make_graph(
        [ir.to_proto(node) for node in part.nodes],
        "segment",
        [_info(value_name(v), live[value_name(v)].dtype) for v in part.reads],
        [helper.make_empty_tensor_value_info(value_name(value)) for value in part.gives],
        [
            onnx.numpy_helper.from_array(value.const_value.numpy(), name)
            for name, value in constants.items()
            if value.const_value is not None
        ],
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(d, v) for d, v in model.opset_imports.items()],
        ir_version=model.ir_version,
    )
    session = open_session(
        proto.SerializeToString(), threads=1, optimize=optimize, fuse_quantized=False, trim=False
    )
    names = [value_name(value) for value in part.gives]
    feeds = {value_name(value): live[value_name(value)] for value in part.reads}
    try:
        pieces = _in_pieces(session, names, feeds, count, fixed_batch(model))
        return dict(zip(names, pieces, strict=True))
    except Exception as error:  # ONNX Runtime's exceptions share no public base
        raise StageError(
            f"ONNX Runtime failed at {node_name(part.last)}: {str(error).splitlines()[0]}",
            hint="Run the Q/DQ model alone in ONNX Runtime to see what is wrong with it.",
        ) from error


def _in_pieces(
    session: ort.InferenceSession,
    names: list[str],
    feeds: Tensors,
    count: int,
    fixed: int | None,
) -> list[NDArray[np.generic]]:
    """Runs some images at a time, so that what lies inside a segment is not there for all at once.

    Each thread has images of its own: threads that share the layers of a short segment mostly wait
    for each other. Where an input or an output does not have one entry an image, all images run
    together.
    """
    threads = min(usable_threads(), _IMAGES)
    step = fixed or _IMAGES // threads
    if (
        count <= step
        or not feeds
        or not all(feed.ndim and len(feed) == count for feed in feeds.values())
    ):
        return list(session.run(names, feeds))

    def run(begin: int) -> list[NDArray[np.generic]]:
        return list(
            session.run(names, {n: feed[begin : begin + step] for n, feed in feeds.items()})
        )

    def fits(begin: int, part: list[NDArray[np.generic]]) -> bool:
        return all(value.ndim and len(value) == min(step, count - begin) for value in part)

    first = run(0)
    if not fits(0, first):
        return list(session.run(names, feeds))
    outputs = [np.empty((count, *value.shape[1:]), value.dtype) for value in first]

    def keep(begin: int) -> bool:
        part = first if begin == 0 else run(begin)
        if not fits(begin, part):
            return False
        for whole, value in zip(outputs, part, strict=True):
            whole[begin : begin + step] = value
        return True

    with ThreadPoolExecutor(threads) as pool:
        successes = list(pool.map(keep, range(0, count, step)))
    return outputs if all(successes) else list(session.run(names, feeds))


def _info(name: str, dtype: np.dtype[np.generic]) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), None)
