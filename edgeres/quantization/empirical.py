"""Empirical bias correction: the mean output of each INT8 layer, measured and put right in order.

The analytic correction knows what weight rounding does to the mean. Rounding and clipping of the
activations shift it too, and the shifts of earlier layers travel on. Measured layer by layer on
images, each after the ones before it were mended, all of that is caught (Nagel et al., arXiv
1906.04721, appendix D).

A layer that ends a residual block is measured behind the Add. Blocks of a trained network push back
against errors on the skip path; a main path that is held to its own mean cannot, and the skip's
error grows from block to block. Likewise only what a Relu lets through is compared, where nothing
else reads the layer's output.

Where a mean is taken is decided once, on the float graph: Q/DQ may stand between a layer and its
Relu, and gives the readers of a tensor other inputs, so the same question asked of the Q/DQ graph
has another answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.graph import layers as graphs
from edgeres.graph.session import open_session, run_session
from edgeres.quantization.forward import chunks, detach_weights, fixed_batch, infer_shapes
from edgeres.quantization.observed import inner_shape
from edgeres.quantization.placement import depths, skip_input
from edgeres.quantization.segments import run_in_segments


@dataclass(frozen=True)
class Anchor:
    """Where the mean of one layer is measured.

    Attributes:
        layer: Name of the layer whose bias puts the mean right.
        rectified: Whether the mean is that of what a Relu lets through.
    """

    layer: str
    rectified: bool


def anchors(graph: ir.Graph, layers: Sequence[str]) -> dict[str, Anchor]:
    """Where each layer's mean is to be measured.

    Args:
        graph: FP32 graph, without Q/DQ.
        layers: Names of weighted layers with a bias.

    Returns:
        By the name of the node whose output is measured: the layer itself, or for the last layer on
        the main path of a residual block the Add.
    """
    depth = depths(graph)
    layer_names = set(layers)
    places: dict[str, Anchor] = {}
    for node in graph:
        name = graphs.node_name(node)
        if name not in layer_names:
            continue
        uses = graphs.consumers(node.outputs[0])
        add, index = uses[0] if len(uses) == 1 else (node, 0)
        residual = add.op_type == "Add" and all(map(graphs.is_activation, add.inputs))
        main = residual and index != skip_input(add, depth)
        measured = add if main else node
        places[graphs.node_name(measured)] = Anchor(
            name, rectified=_rectified(measured.outputs[0]) is not None
        )
    return places


def output_means(
    model: ir.Model, places: Mapping[str, Anchor], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Mean output of each channel of some nodes of a float model.

    Args:
        model: FP32 model; outputs are added and large weights detached, in place.
        places: From :func:`anchors` of this model.
        images: ``(N, C, H, W) float32``.

    Returns:
        Node name to ``(M,) float64``.

    Raises:
        ModelError: The shape of an output is not known.
    """
    graph = model.graph
    infer_shapes(model)
    outputs = {
        name: node.outputs[0] for node in graph if (name := graphs.node_name(node)) in places
    }
    probes = {}
    for name, layer_output in outputs.items():
        behind = _rectified(layer_output) if places[name].rectified else None
        value = layer_output if behind is None else behind
        pooled = len(inner_shape(value)) > 1
        probe = ir.node("GlobalAveragePool" if pooled else "Identity", [value])
        producer = value.producer()
        assert producer is not None
        graph.insert_after(producer, probe)
        probe.outputs[0].name = f"{name}/mean"
        probe.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        graph.outputs.append(probe.outputs[0])
        probes[name] = f"{name}/mean"
    weights = detach_weights(model)
    session = open_session(ir.to_proto(model).SerializeToString(), weights=weights)
    sums: dict[str, NDArray[np.float64]] = {}
    counts: Counter[str] = Counter()
    for batch in chunks(iter([images]), fixed_batch(model)):
        batch_means = run_session(session, batch)
        for name, output in probes.items():
            rows = batch_means[output]  # an image may have several
            counts[name] += len(rows)
            total = rows.reshape(len(rows), -1).sum(axis=0, dtype=np.float64)
            sums[name] = sums[name] + total if name in sums else total
    return {name: total / counts[name] for name, total in sums.items()}


def _rectified(value: ir.Value) -> ir.Value | None:
    """What a Relu makes of a value, where nothing else reads it: only that travels on."""
    if not graphs.only_rectified(value):
        return None
    relu = graphs.consumers(value)[0][0]
    return relu.outputs[0] if relu.op_type == "Relu" else None


def measured_shifts(
    qdq: ir.Model,
    places: Mapping[str, Anchor],
    wanted: Mapping[str, NDArray[np.float64]],
    images: NDArray[np.float32],
) -> dict[str, NDArray[np.float64]]:
    """What to add to each layer's bias so that its mean output is the float model's.

    Args:
        qdq: The Q/DQ model.
        places: From :func:`anchors` of the float model.
        wanted: Mean outputs of the float model, from :func:`output_means`.
        images: The same images.

    Returns:
        Name of the layer to ``(M,) float64``.
    """
    shifts: dict[str, NDArray[np.float64]] = {}

    def mend(name: str, output: NDArray[np.float32]) -> NDArray[np.float32]:
        axes = (0, *range(2, output.ndim))
        if places[name].rectified:
            shift = _shift_before_relu(output, wanted[name])
        else:
            shift = wanted[name] - output.mean(axis=axes, dtype=np.float64)
        shifts[places[name].layer] = shift
        shape = (1, -1, *[1] * (output.ndim - 2))
        return np.asarray(output + shift.astype(np.float32).reshape(shape), np.float32)

    run_in_segments(qdq, list(places), images, mend)
    return shifts


def _shift_before_relu(
    output: NDArray[np.float32], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Solves ``mean(max(output + shift, 0)) = wanted`` per channel with a few Newton steps."""
    flat = np.moveaxis(output.reshape(*output.shape[:2], -1), 1, 0).reshape(output.shape[1], -1)
    shift = np.zeros(len(flat))
    for _ in range(4):
        moved = flat + shift[:, None].astype(np.float32)
        active = np.mean(moved > 0, axis=1)
        error = wanted - np.maximum(moved, 0).mean(axis=1, dtype=np.float64)
        shift += np.where(active > 0.01, error / np.maximum(active, 0.01), 0.0)
    return shift
