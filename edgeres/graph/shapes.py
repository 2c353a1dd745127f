"""Shapes of all tensors: for a batch of one while the passes work, for any batch afterwards.

Exporters spell a free batch in many ways (a symbol, a symbol each, a fixed number, shape
arithmetic). Pinning it to one makes every shape a number; what then stands for the batch is found
by comparing a tensor's first dimension with its producer's, and is freed again at the end.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from edgeres.errors import ModelError, one_line

BATCH = "N"
_BATCHES = (2, 3)
_SMALL = 1024  # bytes; values that inference reads (axes, shapes) are smaller, weights larger


def set_batch(model: ir.Model, batch: int | str) -> None:
    """Sets the batch of every graph input and infers all other shapes anew.

    Raises:
        ModelError: The graph contradicts itself for this batch.
    """
    for value in model.graph.inputs:
        if value.shape is None or len(value.shape) == 0:
            raise ModelError(f"Input '{value.name}' has no shape.", hint="Export it with one.")
        value.shape = ir.Shape([batch, *list(value.shape)[1:]])
    infer(model)


def infer(model: ir.Model) -> None:
    """Infers shape and type of every tensor from the graph's inputs.

    A dimension that the rules cannot tell makes the whole shape unknown, except for the batch: the
    rules lose a symbol in ``Reshape`` to ``(-1, ...)`` and in ``Resize``, so a free batch is that
    dimension which follows two numbers of images. It may hold several rows an image, such as the
    heads of an attention: four are called ``4N`` (:func:`rows_of_images`).

    Raises:
        ModelError: The graph contradicts itself, or holds an operator unknown to its opset.
    """
    skeleton = _skeleton(model)
    found = _inferred(skeleton)
    sampled = _with_batches(skeleton) if _is_free(skeleton) else None
    for node in model.graph:
        for value in node.outputs:
            name = value.name or ""
            info = found.get(name)
            value.shape = _shape(info) if info is not None else None
            if value.shape is None and sampled is not None:
                value.shape = _following(sampled[0].get(name), sampled[1].get(name))
            if info is not None and info.type.tensor_type.elem_type:
                value.type = ir.TensorType(ir.DataType(info.type.tensor_type.elem_type))


def _inferred(skeleton: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """What ONNX's own inference says of every tensor, by name."""
    try:
        graph = onnx.shape_inference.infer_shapes(
            skeleton, check_type=True, strict_mode=True, data_prop=True
        ).graph
    except Exception as error:  # the C++ side raises several types
        raise ModelError(
            f"The graph's shapes contradict each other: {one_line(error)}.",
            hint="Check the model with onnx.checker and export it again.",
        ) from error
    return {v.name: v for v in (*graph.value_info, *graph.output)}


def _is_free(skeleton: onnx.ModelProto) -> bool:
    dims = (list(value.type.tensor_type.shape.dim) for value in skeleton.graph.input)
    return any(shape and shape[0].dim_param == BATCH for shape in dims)


def _with_batches(
    skeleton: onnx.ModelProto,
) -> tuple[dict[str, onnx.ValueInfoProto], dict[str, onnx.ValueInfoProto]] | None:
    """Inference for each of two numbers of images; ``None`` where the graph takes one only."""
    found = []
    for batch in _BATCHES:
        fixed = onnx.ModelProto()
        fixed.CopyFrom(skeleton)
        for value in fixed.graph.input:
            dims = value.type.tensor_type.shape.dim
            if len(dims) and dims[0].dim_param == BATCH:
                dims[0].dim_value = batch
        try:
            found.append(_inferred(fixed))
        except ModelError:
            return None
    return found[0], found[1]


def _following(
    first: onnx.ValueInfoProto | None, second: onnx.ValueInfoProto | None
) -> ir.Shape | None:
    """The shape that two numbers of images agree on, with the batch in one dimension at most."""
    shapes = [_shape(info) for info in (first, second) if info is not None]
    if len(shapes) != 2 or shapes[0] is None or shapes[1] is None:
        return None
    if len(shapes[0]) != len(shapes[1]) or not len(shapes[0]):
        return None
    dims: list[int | str] = []
    for one, other in zip(shapes[0].numpy(), shapes[1].numpy(), strict=True):
        rows, rest = divmod(one, _BATCHES[0])
        if one == other:
            dims.append(one)
        elif rest or other != rows * _BATCHES[1]:
            return None
        else:
            dims.append(BATCH if rows == 1 else f"{rows}{BATCH}")
    return ir.Shape(dims) if sum(isinstance(dim, str) for dim in dims) < 2 else None


def rows_of_images(shape: ir.Shape) -> tuple[int, int] | None:
    """Where a tensor for a free batch has its images: the axis, and how many rows each has there.

    ``None`` where no dimension follows the batch, as :func:`infer` has told.
    """
    for axis, dim in enumerate(shape):
        name = None if isinstance(dim, int) else dim.value
        if name is not None and name.endswith(BATCH) and name[: -len(BATCH)].isdecimal():
            return axis, int(name[: -len(BATCH)])
        if name == BATCH:
            return axis, 1
    return None


def images_elsewhere(model: ir.Model) -> frozenset[str]:
    """Tensors whose images are not in the first dimension, or nobody knows where.

    Args:
        model: With the batch pinned to one. Only a Transpose of the first dimension moves images.
    """
    moves = any(
        node.op_type == "Transpose" and (node.attributes.get_ints("perm", ()) or (1,))[0] != 0
        for node in model.graph
    )
    if not moves:
        return frozenset()
    free = model.clone()
    try:
        set_batch(free, BATCH)
    except ModelError:  # it takes one batch only
        return frozenset()
    return frozenset(
        value.name or ""
        for node in free.graph
        for value in node.outputs
        if value.shape is None or (rows_of_images(value.shape) or (0,))[0] != 0
    )


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model without its weights' values and without any shape but the inputs'."""
    graph = model.graph
    light = onnx.GraphProto(name="skeleton")
    light.input.extend(ir.to_proto(value) for value in graph.inputs)
    for weight in graph.initializers.values():
        tensor = weight.const_value
        if tensor is not None and tensor.nbytes <= _SMALL:
            light.initializer.append(ir.to_proto(tensor))
            light.initializer[-1].name = weight.name or ""
        else:
            light.input.append(ir.to_proto(weight))
    light.node.extend(ir.to_proto(node) for node in graph)
    for value in graph.outputs:
        element = value.dtype if value.dtype is not None else ir.DataType.FLOAT
        light.output.append(
            onnx.helper.make_tensor_value_info(value.name or "", int(element), None)
        )
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    # Before version 4 every initializer had to be an input as well.
    version = max(model.ir_version, 4)
    return onnx.ModelProto(ir_version=version, opset_import=opsets, graph=light)


def _shape(info: onnx.ValueInfoProto) -> ir.Shape | None:
    if not info.type.tensor_type.HasField("shape"):
        return None
    dims: list[int | str] = []
    for dim in info.type.tensor_type.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(dim.dim_value)
        elif dim.dim_param == BATCH:
            dims.append(BATCH)
        else:
            return None
    return ir.Shape(dims)
