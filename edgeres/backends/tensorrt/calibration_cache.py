"""A calibration cache: the scales of a calibration, for TensorRT's implicit INT8.

Implicit INT8 is TensorRT's older way, gone in 11: the network is float, and the builder makes a
layer INT8 where it knows the scales of what goes in and out. The DLA of JetPack 5 and 6 takes INT8
in no other way. The cache is text: a line with TensorRT's version and the kind of calibrator, then
for each tensor its name and the bits of its float32 scale in hexadecimal; the scale stands for
``[-127 * scale, 127 * scale]`` (github.com/NVIDIA/TensorRT at v10.13.3,
``samples/common/sampleEngines.cpp``, ``readScalesFromCalibrationCache``).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from edgeres.backends.tensorrt.graph import Graph
from edgeres.errors import ModelError

HEADER = "EntropyCalibration2"
"""Kind of calibrator that ``trtexec --calib`` reads a cache with (``RndInt8Calibrator``)."""

_LEVELS = 127
_LEAST = 2.0**-62


def with_inner_tensors(magnitudes: Mapping[str, float], graph: Graph) -> dict[str, float]:
    """The magnitudes, with those of tensors that only a Relu reads and calibration passed over.

    TensorRT wants a scale on both sides of a convolution before it fuses the Relu behind it. The
    Relu's own is right for its input: what is clipped below 0 there the Relu makes 0.
    """
    found = dict(magnitudes)
    for node in graph.model.graph.node:
        if node.op_type not in {"Relu", "Clip"} or node.output[0] not in magnitudes:
            continue
        least = node.input[1] if len(node.input) > 1 else ""
        low = graph.constants.get(least) if node.op_type == "Clip" else np.zeros(1)
        alone = len(graph.consumers[node.input[0]]) == 1
        if alone and low is not None and not low.any():
            found.setdefault(node.input[0], magnitudes[node.output[0]])
    return found


def calibration_cache(magnitudes: Mapping[str, float], version: int) -> str:
    """The text of a cache.

    Args:
        magnitudes: Largest magnitude of each tensor, by its name in the ONNX file; 0 for one that
            was never anything else.
        version: TensorRT's version as one number, ``NV_TENSORRT_VERSION``: 8601 is 8.6.1, 100300
            is 10.3.0.

    Raises:
        ModelError: A tensor's name that the file cannot hold.
    """
    lines = [f"TRT-{version}-{HEADER}"]
    for name, magnitude in magnitudes.items():
        if not name or "\n" in name or "\r" in name:
            raise ModelError(
                f"the tensor name {name!r} cannot stand in a calibration cache.",
                hint="Give the network's tensors names of one line.",
            )
        scale = max(magnitude / _LEVELS, _LEAST)
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"
