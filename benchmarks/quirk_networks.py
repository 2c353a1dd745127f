"""Random small networks, each from a seed, for the search for engine quirks.

A network is a chain of blocks on maps of a few pixels, drawn over operators, attributes and
magnitudes: what engines treat specially is in the attributes (who pads with what, what ``ceil``
counts), in channel counts that do not fill a vector, and in scales and zero points at their ends.
All of them are networks that ``edgeres`` accepts; weights are random, since only arithmetic is
looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))
from quirk_blocks import (
    arithmetic,
    branches,
    move,
    pad,
    pool,
    residual,
    resize,
    squeeze_excite,
)
from quirk_layers import conv_block
from quirk_readers import READERS
from quirk_sketch import Sketch, image_info

IMAGES = 6
"""Images for each network: they calibrate it and are then run."""
_CLASSES = 6


@dataclass(frozen=True)
class Network:
    """A network in FP32 and its images.

    Attributes:
        seed: What it was drawn from.
        model: One input ``(N, C, H, W) float32``, one output ``(N, K)``.
        images: ``(IMAGES, C, H, W) float32``.
        parts: Its blocks in words.
    """

    seed: int
    model: onnx.ModelProto
    images: NDArray[np.float32]
    parts: tuple[str, ...]


def draw(seed: int) -> Network:
    """The network of a seed."""
    random, further = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    image = (
        int(random.choice([1, 2, 3, 3, 4, 5])),
        int(random.integers(6, 12)),
        int(random.integers(6, 12)),
    )
    magnitude = float(10.0 ** random.uniform(-6, 6)) if random.random() < 0.25 else 1.0
    sketch = Sketch(random, "x", image, image=image, magnitude=magnitude)
    conv_block(sketch)
    for _ in range(sketch.whole(1, 3)):
        if further.random() < 0.25:
            block = READERS[int(further.integers(len(READERS)))]
        else:
            block = BLOCKS[int(random.integers(len(BLOCKS)))]
        saved = (
            sketch.tensor,
            sketch.shape,
            len(sketch.nodes),
            len(sketch.weights),
            len(sketch.parts),
        )
        try:
            block(sketch)
        except ValueError:  # the attributes leave no pixel: the block is left out
            sketch.tensor, sketch.shape = saved[:2]
            del sketch.nodes[saved[2] :], sketch.weights[saved[3] :], sketch.parts[saved[4] :]
    _head(sketch)
    graph = helper.make_graph(
        sketch.nodes,
        f"network{seed}",
        [image_info("x", image, "N")],
        [helper.make_tensor_value_info(sketch.tensor, TensorProto.FLOAT, ["N", _CLASSES])],
        sketch.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    images = random.standard_normal((IMAGES, *image)) + random.uniform(-1, 1, (IMAGES, 1, 1, 1))
    return Network(seed, model, (images * magnitude).astype(np.float32), tuple(sketch.parts))


def _head(sketch: Sketch) -> None:
    """Pooling or none, then one to three fully connected layers."""
    kind = sketch.one_of(
        ["GlobalAveragePool", "GlobalAveragePool", "ReduceMean", "Flatten", "GlobalMaxPool"]
    )
    tensor = sketch.tensor
    if kind == "ReduceMean":
        axes = sketch.constant(np.array([2, 3], np.int64))
        tensor = sketch.apply("ReduceMean", [tensor, axes], keepdims=0)
    else:
        if kind != "Flatten":
            tensor = sketch.apply(str(kind), [tensor])
        tensor = sketch.apply("Flatten", [tensor], axis=1)
    width = int(np.prod(sketch.shape)) if kind == "Flatten" else sketch.shape[0]
    sketch.parts.append(str(kind))
    if kind == "GlobalAveragePool" and sketch.maybe(0.2):
        peaks = sketch.apply("Flatten", [sketch.apply("GlobalMaxPool", [sketch.tensor])], axis=1)
        tensor, width = sketch.apply("Concat", [tensor, peaks], axis=1), 2 * width
        sketch.parts.append("Concat of peaks")
    for last in [False] * sketch.whole(0, 2) + [True]:
        rows = _CLASSES if last else sketch.whole(3, 40)
        weight = sketch.random.standard_normal((rows, width)) / np.sqrt(width)
        bias = sketch.random.standard_normal(rows) * 0.2 * sketch.magnitude
        names = [sketch.constant(a.astype(np.float32)) for a in (weight, bias)]
        tensor = sketch.apply("Gemm", [tensor, *names], transB=1)
        if not last and sketch.maybe(0.7):
            tensor = sketch.apply("Relu", [tensor])
        sketch.parts.append(f"Gemm {width}>{rows}")
        width = rows
    sketch.tensor = tensor


BLOCKS: tuple[Callable[[Sketch], None], ...] = (
    conv_block, conv_block, pool, pool, pool, residual, residual, branches, branches,
    squeeze_excite, resize, pad, move, arithmetic,
)  # fmt: skip
