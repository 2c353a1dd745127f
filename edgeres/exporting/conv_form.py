"""Convolutions and pooling windows in one form: explicit numbers, always a bias.

Rules:

1. ``auto_pad`` is resolved into ``pads`` (ONNX operator specification, Conv: ``auto_pad``).
2. ``Pad`` with zeros in front of a Conv is merged into the Conv's own padding.
3. Kernel, strides, dilations, group and pads are written out.
4. A Conv without bias gets one of zeros.
5. The padding of a 1x1 Conv that strides stands in a ``Pad``: OpenVINO moves such strides before
   the padding, which is another network then.

Pools come here without ``ceil_mode`` (:mod:`edgeres.exporting.pool_form`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.edit import (
    Attribute,
    NodePass,
    add_constant,
    constant,
    constant_ints,
    data_input,
    input_at,
    made_by,
    pad_before,
    replace,
    static_shape,
)

_WINDOWS = ("Conv", "MaxPool", "AveragePool")


class ConvForm(NodePass):
    """Applies the rules of this module."""

    def requires(self, model: ir.Model) -> None:
        """Every Conv has constant weights."""
        for node in model.graph:
            if node.op_type == "Conv" and constant(input_at(node, 1)) is None:
                raise ModelError(
                    f"Expected constant weights at Conv '{node.name}', got computed ones.",
                    hint="Only networks with trained, fixed weights can be quantized.",
                )

    def visit(self, node: ir.Node) -> bool:
        """Rewrites one Conv, MaxPool or AveragePool."""
        if node.op_type not in _WINDOWS or len(node.outputs) != 1:
            return False
        wanted = _attributes(node)
        if wanted is None:
            return False
        inputs = list(node.inputs)
        picks = node.op_type == "Conv" and _only_picks(wanted)
        padding = _mergeable_pad(node) if node.op_type == "Conv" and not picks else None
        if picks and any(_ints(wanted["pads"])):
            pads = _ints(wanted["pads"])
            half = len(pads) // 2
            inputs[0] = pad_before(node, data_input(node), pads[:half], pads[half:])
            wanted["pads"] = [0] * len(pads)
        if padding is not None:
            pad, extra = padding
            inputs[0] = data_input(pad)
            wanted["pads"] = [a + b for a, b in zip(_ints(wanted["pads"]), extra, strict=True)]
        if node.op_type == "Conv" and input_at(node, 2) is None:
            channels = (static_shape(node.inputs[1]) or (0,))[0]
            inputs = [*inputs[:2], add_constant(node, "bias", np.zeros(channels, np.float32))]
        if inputs == list(node.inputs) and _current(node) == wanted:
            return False
        replace(node, node.op_type, inputs, wanted)
        return True

    def ensures(self, model: ir.Model) -> None:
        """Every Conv has a constant bias and explicit padding."""
        for node in model.graph:
            if node.op_type == "Conv" and constant(input_at(node, 2)) is None:
                raise ModelError(f"Conv '{node.name}' has no constant bias.")
            if node.op_type in _WINDOWS and "auto_pad" in node.attributes:
                raise ModelError(f"The padding of '{node.name}' could not be resolved.")


def _attributes(node: ir.Node) -> dict[str, Attribute] | None:
    """All attributes of a window, written out; ``None`` where shapes are not known."""
    shape, output = static_shape(data_input(node)), static_shape(node.outputs[0])
    if shape is None or output is None:
        return None
    spatial = len(shape) - 2
    weight = static_shape(input_at(node, 1)) or ()
    kernel = list(node.attributes.get_ints("kernel_shape", weight[2:]))
    strides = list(node.attributes.get_ints("strides", [1] * spatial))
    dilations = list(node.attributes.get_ints("dilations", [1] * spatial))
    if not len(kernel) == len(strides) == len(dilations) == spatial:
        return None
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    pads = explicit_pads(node, shape[2:], reach, strides)
    wanted: dict[str, Attribute] = {"kernel_shape": kernel, "pads": pads, "strides": strides}
    if node.op_type == "Conv":
        return wanted | {"dilations": dilations, "group": node.attributes.get_int("group", 1)}
    if any(d != 1 for d in dilations):
        wanted["dilations"] = dilations
    explicit = node.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    if (
        explicit  # the other modes say how many windows there are
        and node.attributes.get_int("ceil_mode", 0) == 1
        and any(
            (size + pads[i] + pads[i + spatial] - reach[i]) % strides[i]
            for i, size in enumerate(shape[2:])
        )
    ):
        wanted["ceil_mode"] = 1  # only a pool that the form could not be found for
    return wanted


def explicit_pads(
    node: ir.Node, sizes: tuple[int, ...], reach: list[int], strides: list[int]
) -> list[int]:
    """The padding of a window as ``pads``, all begins, then all ends, whatever ``auto_pad`` says.

    Args:
        node: Conv, MaxPool or AveragePool.
        sizes: Of its input, without batch and channels.
        reach: Pixels from a window's first to its last, by dimension.
        strides: By dimension.
    """
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return list(node.attributes.get_ints("pads", [0] * (2 * len(sizes))))
    if mode == "VALID":
        return [0] * (2 * len(sizes))
    begins, ends = [], []
    for size, covered, stride in zip(sizes, reach, strides, strict=True):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + covered - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def _only_picks(wanted: dict[str, Attribute]) -> bool:
    """True for a Conv of one tap that leaves pixels out."""
    return max(_ints(wanted["kernel_shape"])) == 1 and max(_ints(wanted["strides"])) > 1


def _mergeable_pad(node: ir.Node) -> tuple[ir.Node, list[int]] | None:
    """The zero padding in front of a Conv, as the Conv's own ``pads``."""
    pad = made_by(data_input(node), "Pad")
    if pad is None:
        return None
    value = input_at(pad, 2)
    if padding_mode(pad) != "constant":
        return None
    filled = constant(value)
    if value is not None and (filled is None or np.any(filled)):
        return None
    padding = spatial_padding(pad)
    return None if padding is None else (pad, padding)


def padding_mode(pad: ir.Node) -> str:
    """What a ``Pad`` fills with: ``constant``, ``edge``, ``reflect`` or ``wrap``."""
    return pad.attributes.get_string("mode", "constant")


def spatial_padding(pad: ir.Node) -> list[int] | None:
    """Amounts of a ``Pad`` behind the channels: all begins, then all ends.

    ``None`` where they are not known, where it pads batch or channels, or cuts.
    """
    pads = constant_ints(input_at(pad, 1))
    if pads is None:
        return None
    rank = len(static_shape(data_input(pad)) or ())
    axes = constant_ints(input_at(pad, 3)) or tuple(range(rank))
    begins, ends = [0] * rank, [0] * rank
    for position, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[position], pads[position + len(axes)]
    if any(begins[:2]) or any(ends[:2]) or min(*begins, *ends) < 0:
        return None
    return begins[2:] + ends[2:]


def _ints(value: Attribute) -> list[int]:
    return [int(v) for v in value] if isinstance(value, (list, tuple)) else []


def _current(node: ir.Node) -> dict[str, Attribute]:
    return {
        name: list(a.as_ints()) if a.type == ir.AttributeType.INTS else a.value
        for name, a in node.attributes.items()
    }
