"""Flags of the builder that a user asks for: refitting, plans without weights, sparse kernels.

What each flag does is said in NVIDIA's API reference, ``BuilderFlag``, and under "Refitting an
Engine" and "Weight-Stripped Engines" in the developer's guide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.backends.tensorrt.api import Trt
from edgeres.backends.tensorrt.graph import DQ, Graph, Q
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.errors import UsageError

_GROUP, _MOST = 4, 2  # of four neighbours along the input channels at most two are not 0


def set_flags(trt: Trt, builder_config: Any, options: TensorRTOptions) -> None:
    """Sets the flags that the options ask for.

    Raises:
        UsageError: This TensorRT does not have one, or it needs a GPU that is not there.
    """
    module = trt.module
    for wanted, name in (
        (options.refit, "REFIT"),
        (options.strip_plan, "STRIP_PLAN"),
        (options.sparse_weights, "SPARSE_WEIGHTS"),
    ):
        if not wanted:
            continue
        # TensorRT for RTX 1.7 has the first two flags, and its compiler then asks for a GPU.
        needs_gpu = trt.is_rtx and name != "SPARSE_WEIGHTS"
        if needs_gpu or not hasattr(module.BuilderFlag, name):
            why = "without a GPU" if needs_gpu else "at all"
            option = name.lower()
            raise UsageError(
                f"{trt.title} does not do {option} {why}.",
                hint=f"Leave {option} out, or use flavor=tensorrt on TensorRT 10 or later.",
            )
        builder_config.set_flag(getattr(module.BuilderFlag, name))


def sparsity_note(graph: Graph) -> str:
    """How many layers could take a sparse kernel: those with weights of the 2:4 pattern.

    The pattern is that of NVIDIA's guide, "Sparsity": in every four neighbouring input channels, at
    each place of the kernel, at least two weights are 0.
    """
    found = [
        is_sparse(weights, node.op_type)
        for node in graph.model.graph.node
        if node.op_type in {"Conv", "Gemm", "MatMul"} and len(node.input) > 1
        for weights in [_weights(graph, node.input[1])]
        if weights is not None
    ]
    return (
        f"sparse_weights: {sum(found)} of {len(found)} layers have weights of the 2:4 pattern, and "
        "no other can get a sparse kernel"
    )


def is_sparse(weights: NDArray[np.generic], op_type: str) -> bool:
    """Whether weights have the 2:4 pattern along their input channels.

    Args:
        weights: ``(O, I, ...)`` of a Conv, ``(O, I)`` or ``(I, O)`` of a Gemm or MatMul, any dtype.
        op_type: ONNX op type of the layer; for the last two either axis may be the one.
    """
    axes = (1,) if op_type == "Conv" else (0, 1)
    return any(_has_pattern(np.moveaxis(weights, axis, -1)) for axis in axes)


def _has_pattern(rows: NDArray[np.generic]) -> bool:
    if not rows.size or rows.shape[-1] % _GROUP:
        return False
    groups = rows.reshape(-1, _GROUP)
    return bool(((groups != 0).sum(1) <= _MOST).all())


def _weights(graph: Graph, tensor: str) -> NDArray[np.generic] | None:
    """Constant weights, also behind Q and DQ."""
    while tensor not in graph.constants:
        node = graph.producers.get(tensor)
        if node is None or node.op_type not in {Q, DQ}:
            return None
        tensor = node.input[0]
    return graph.constants[tensor]
