"""Views of a tensor that have the images in their first dimension, to look into a network.

Not every tensor has: heads of an attention lie beside the images in one dimension, a sequence may
stand in front of them, and a network for single images need have no dimension for them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.shapes import BATCH, rows_of_images


def as_one_image(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A tensor without a dimension of images, with one: of a network for single images."""
    producer = value.producer()
    assert producer is not None
    assert value.shape is not None
    axis = ir.tensor(np.zeros(1, np.int64))
    axes_node = ir.Node("", "Constant", [], attributes=[ir.AttrTensor("value", axis)])
    node = ir.node("Unsqueeze", [value, axes_node.outputs[0]])
    output = node.outputs[0]
    output.name, output.type = f"{value.name}/observed/one", value.type
    axes_node.outputs[0].name = f"{value.name}/observed/axis"
    output.shape = ir.Shape([1, *value.shape])
    graph.insert_after(producer, [axes_node, node])
    return output


def by_image(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A tensor for any number of images with them in its first dimension, one row each.

    Several rows of an image, such as heads, come behind what was second, which may be channels.

    Raises:
        ModelError: No dimension follows the number of images.
    """
    found = None if value.shape is None else rows_of_images(value.shape)
    if value.shape is None or found == (0, 1):
        return value
    if found is None:
        raise ModelError(
            f"tensor {value.name} has shape {value.shape} for any number of images: something is "
            "computed over the batch, so the answer to an image depends on the others.",
            hint="Export the network in evaluation mode with a free batch.",
        )
    axis, rows = found
    order = [axis, *(each for each in range(len(value.shape)) if each != axis)]
    inner = [size for size in value.shape if isinstance(size, int)]
    front = ir.node("Transpose", [value], attributes={"perm": order})
    sizes = [-1, rows, *inner] if rows > 1 else [-1, *inner]
    target = ir.Node("", "Constant", [], attributes=[ir.AttrTensor("value", ir.tensor(sizes))])
    view = ir.node("Reshape", [front.outputs[0], target.outputs[0]])
    swap = [0, 2, 1, *range(3, len(sizes))] if rows > 1 else [*range(len(sizes))]
    last = ir.node("Transpose", [view.outputs[0]], attributes={"perm": swap})
    for node, role in ((front, "front"), (target, "sizes"), (view, "rows"), (last, "images")):
        node.outputs[0].name, node.outputs[0].type = f"{value.name}/observed/{role}", value.type
    target.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    last.outputs[0].shape = ir.Shape([BATCH, *(sizes[place] for place in swap[1:])])
    producer = value.producer()
    assert producer is not None  # the image itself has its batch in front
    graph.insert_after(producer, [front, target, view, last])
    return last.outputs[0]
