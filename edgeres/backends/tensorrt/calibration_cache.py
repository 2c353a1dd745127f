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

from edgeres.errors import ModelError

HEADER = "EntropyCalibration2"
"""Kind of calibrator that ``trtexec --calib`` reads a cache with (``RndInt8Calibrator``)."""

_LEVELS = 127
_LEAST = 2.0**-62


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
