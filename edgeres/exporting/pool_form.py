"""Pooling in one form: explicit pads that are left out of the result, no ``ceil_mode``.

Engines agree on this form only. With ``ceil_mode`` they disagree on a last window that starts in
the padding: ONNX Runtime and PyTorch drop it, OpenVINO and ONNX's shape inference do not. ONNX
Runtime and OpenVINO count the pixels that ``ceil_mode`` adds into an INT8 mean with
``count_include_pad``. OpenVINO pads an INT8 tensor with the integer 0, which is not the number 0
where the zero point is not. ONNX Runtime's INT8 mean knows no dilations: it refuses the whole file.

Rules, for one ``MaxPool`` or ``AveragePool`` on ``(N, C, H, W)``:

1. ``auto_pad`` becomes explicit pads.
2. ``ceil_mode`` becomes pads at the end, as many as the last window needs.
3. ``count_include_pad`` becomes a ``Pad`` with zeros in front: what was padding is image then.
4. A dilated window of an average becomes a depthwise ``Conv`` with equal weights, and where padding
   is left out of some means a ``Mul`` that gives them their own number of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.exporting.conv_form import explicit_pads
from edgeres.graph.edit import (
    Attribute,
    NodePass,
    add_constant,
    data_input,
    insert_before,
    pad_before,
    replace,
    static_shape,
)
from edgeres.graph.shapes import infer

_POOLS = ("MaxPool", "AveragePool")


@dataclass(frozen=True)
class Window:
    """One axis of a pooling window.

    Attributes:
        size: Pixels of the image.
        outputs: Positions of the window.
        kernel: Taps of the window.
        stride: Pixels from one position to the next.
        dilation: Pixels from one tap to the next.
        begin: Padding in front.
        end: Padding behind.
    """

    size: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    @property
    def needed(self) -> int:
        """Padding behind that the last window reaches into: no less, and no more is looked at."""
        reach = (self.outputs - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        return max(0, reach - self.size - self.begin)

    def counts(self, *, padding: bool) -> list[int]:
        """Taps of each position that meet the image, or the image and its ``padding``."""
        low, high = (-self.begin, self.size + self.end) if padding else (0, self.size)
        starts = (position * self.stride - self.begin for position in range(self.outputs))
        return [
            sum(low <= start + tap * self.dilation < high for tap in range(self.kernel))
            for start in starts
        ]


class PoolForm(NodePass):
    """Applies the rules of this module."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Visits every node; the shapes behind a rewritten one may have been wrong before."""
        result = super().call(model)
        if result.modified:
            infer(model)
        return result

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one pool that is not in the form yet."""
        if node.op_type not in _POOLS or node.domain not in ("", "ai.onnx") or _in_form(node):
            return False
        windows = _windows(node)
        if windows is None:
            return False
        source = data_input(node)
        if node.attributes.get_int("count_include_pad", 0):
            source, windows = _padded(node, source, windows)
        pads = [*(window.begin for window in windows), *(window.needed for window in windows)]
        dilations = [window.dilation for window in windows]
        if node.op_type == "AveragePool" and max(dilations) > 1:
            _as_convolution(node, source, windows, pads)
            return True
        attributes: dict[str, Attribute] = {
            "kernel_shape": [window.kernel for window in windows],
            "strides": [window.stride for window in windows],
            "pads": pads,
        }
        if max(dilations) > 1:
            attributes["dilations"] = dilations
        replace(node, node.op_type, [source], attributes)
        return True

    def ensures(self, model: ir.Model) -> None:
        """Every pool of known shapes is in the form."""
        for node in model.graph:
            if node.op_type in _POOLS and not _in_form(node) and _windows(node) is not None:
                raise ModelError(f"{node.op_type} '{node.name}' still pads in a way of its own.")


def _in_form(node: ir.Node) -> bool:
    attributes = node.attributes
    plain = not any(attributes.get_int(name, 0) for name in ("ceil_mode", "count_include_pad"))
    automatic = attributes.get_string("auto_pad", "NOTSET") != "NOTSET"
    dense = node.op_type == "MaxPool" or set(attributes.get_ints("dilations", ())) <= {1}
    return plain and not automatic and dense


def _windows(node: ir.Node) -> tuple[Window, ...] | None:
    """The window along height and width; ``None`` where shapes are unknown or contradict it."""
    shape, result = static_shape(data_input(node)), static_shape(node.outputs[0])
    if shape is None or result is None or len(shape) != 4 or len(node.outputs) > 1:
        return None
    kernel = node.attributes.get_ints("kernel_shape", ())
    strides = node.attributes.get_ints("strides", (1, 1))
    dilations = node.attributes.get_ints("dilations", (1, 1))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = explicit_pads(node, shape[2:], reach, list(strides))
    windows = []
    for axis in range(2):
        size, outputs = shape[2 + axis], result[2 + axis]
        begin, end = pads[axis], pads[2 + axis]
        if (outputs - 1) * strides[axis] >= size + begin:
            outputs -= 1  # it would start in the padding; ONNX drops it, its shape inference not
        window = Window(size, outputs, kernel[axis], strides[axis], dilations[axis], begin, end)
        if 0 in window.counts(padding=bool(node.attributes.get_int("count_include_pad", 0))):
            return None  # a mean of nothing has no form that engines agree on
        windows.append(window)
    return tuple(windows)


def _padded(
    node: ir.Node, source: ir.Value, windows: tuple[Window, ...]
) -> tuple[ir.Value, tuple[Window, ...]]:
    """Makes the padding part of the image."""
    begins, ends = [w.begin for w in windows], [min(w.end, w.needed) for w in windows]
    if not any((*begins, *ends)):
        return source, windows
    moved = (
        Window(w.size + begin + end, w.outputs, w.kernel, w.stride, w.dilation, 0, 0)
        for w, begin, end in zip(windows, begins, ends, strict=True)
    )
    return pad_before(node, source, begins, ends), tuple(moved)


def _as_convolution(
    node: ir.Node, source: ir.Value, windows: tuple[Window, ...], pads: list[int]
) -> None:
    """A depthwise convolution of equal weights, and a factor where padding is left out."""
    shape = static_shape(source)
    assert shape is not None
    kernel = [window.kernel for window in windows]
    taps = int(np.prod(kernel))
    weight = add_constant(node, "weight", np.full((shape[1], 1, *kernel), 1 / taps, np.float32))
    attributes: dict[str, Attribute] = {
        "kernel_shape": kernel,
        "strides": [window.stride for window in windows],
        "dilations": [window.dilation for window in windows],
        "pads": pads,
        "group": shape[1],
    }
    met = np.multiply.outer(*(np.array(window.counts(padding=False)) for window in windows))
    if (met == taps).all():
        replace(node, "Conv", [source, weight], attributes)
        return
    sizes = (*shape[:2], *(window.outputs for window in windows))
    summed = insert_before(node, "Conv", [source, weight], sizes, attributes)
    factor = add_constant(node, "factor", (taps / met).astype(np.float32)[None, None])
    replace(node, "Mul", [summed, factor])
