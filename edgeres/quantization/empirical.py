"""Empirical bias correction: the mean output of each INT8 layer, measured and put right in order.

The analytic correction knows what weight rounding does to the mean. Rounding and clipping of the
activations shift it too, and the shifts of earlier layers travel on. Measured layer by layer on
images, each after the ones before it were mended, all of that is caught (Nagel et al., arXiv
1906.04721, appendix D).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeres.quantization import graph as graphs
from edgeres.quantization.forward import chunks, detach_weights, open_session, run_session
from edgeres.quantization.segments import run_by_layer


def output_means(
    model: ir.Model, layers: Sequence[str], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Mean output of each channel of some layers of a float model.

    Args:
        model: FP32 model; outputs are added and large weights detached, in place.
        layers: Names of weighted layers.
        images: ``(N, C, H, W) float32``.

    Returns:
        Layer name to ``(M,) float64``.
    """
    graph = model.graph
    wanted = set(layers)
    outputs = {
        graphs.node_name(node): node.outputs[0]
        for node in graph
        if graphs.node_name(node) in wanted
    }
    probes = {}
    for name, value in outputs.items():
        spatial = value.shape is None or len(value.shape) == 4
        probe = ir.node("GlobalAveragePool" if spatial else "Identity", [value])
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
    for batch in chunks(iter([images])):
        got = run_session(session, batch)
        for name, output in probes.items():
            total = got[output].reshape(len(batch), -1).sum(axis=0, dtype=np.float64)
            sums[name] = sums[name] + total if name in sums else total
    return {name: total / len(images) for name, total in sums.items()}


def measured_shifts(
    qdq: ir.Model, wanted: dict[str, NDArray[np.float64]], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """What to add to each layer's bias so that its mean output is the float model's.

    Args:
        qdq: The Q/DQ model.
        wanted: Mean outputs of the float model, from :func:`output_means`.
        images: The same images.

    Returns:
        Layer name to ``(M,) float64``.
    """
    shifts: dict[str, NDArray[np.float64]] = {}

    def mend(name: str, output: NDArray[np.float32]) -> NDArray[np.float32]:
        axes = (0, *range(2, output.ndim))
        shift = wanted[name] - output.mean(axis=axes, dtype=np.float64)
        shifts[name] = shift
        shape = (1, -1, *[1] * (output.ndim - 2))
        return np.asarray(output + shift.astype(np.float32).reshape(shape), np.float32)

    run_by_layer(qdq, list(wanted), images, mend)
    return shifts
