"""1x1 convolutions with a stride behind Q/DQ, written so that an engine keeps them in INT8.

OpenVINO 2026.4 samples what such a convolution reads with a MaxPool of one pixel instead. Where
nothing but such convolutions reads a DequantizeLinear, it puts that pool in front of the scaling,
and pool, scaling and convolution are then float. A pool that the file has already stays behind the
scaling, and all of it runs in INT8. The arithmetic is the same.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeres.graph.layers import consumers, node_name

DEQUANTIZE = "DequantizeLinear"


def sample_in_front(graph: ir.Graph) -> None:
    """Takes the stride out of 1x1 convolutions that alone read a DequantizeLinear, in place."""
    for dequantize in list(graph):
        if dequantize.op_type != DEQUANTIZE:
            continue
        uses = consumers(dequantize.outputs[0])
        if uses and all(index == 0 and _is_strided_point(node) for node, index in uses):
            for reader, _ in uses:
                _sample(graph, reader)


def _is_strided_point(node: ir.Node) -> bool:
    """True for a Conv of one pixel with a stride and no padding."""
    if node.op_type != "Conv":
        return False
    weight = node.inputs[1]
    kernel = None if weight is None or weight.shape is None else tuple(weight.shape)[2:]
    return (
        kernel is not None
        and all(size == 1 for size in kernel)
        and max(node.attributes.get_ints("strides", (1,))) > 1
        and not any(node.attributes.get_ints("pads", ()))
    )


def _sample(graph: ir.Graph, node: ir.Node) -> None:
    source = node.inputs[0]
    assert source is not None
    strides = list(node.attributes.get_ints("strides", ()))
    name = f"{node_name(node)}.sampled"
    output = ir.Value(name=f"{name}.out", type=source.type)
    pool = ir.node(
        "MaxPool", [source], {"kernel_shape": [1] * len(strides), "strides": strides},
        outputs=[output], name=name,
    )  # fmt: skip
    shape, made = source.shape, node.outputs[0].shape
    if shape is not None and made is not None:
        output.shape = ir.Shape([*shape[:2], *made[2:]])
    graph.insert_before(node, pool)
    node.replace_input_with(0, output)
    node.attributes.add(ir.AttrInt64s("strides", [1] * len(strides)))
