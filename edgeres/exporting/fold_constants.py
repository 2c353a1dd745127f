"""Computes once, at export, what does not depend on the image.

With the batch pinned to one, ``Shape`` of any tensor is a constant too, so the shape arithmetic
that exporters write in front of a ``Reshape`` folds into a plain target shape.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from edgeres.errors import ModelError
from edgeres.graph.edit import add_constant, bypass, constant, input_at, static_shape
from edgeres.graph.shapes import infer

_ROUNDS = 16
_LARGEST = 1 << 28  # elements; a folded weight is never larger than this
RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Operators that give other numbers each time: folded, one draw would stand in the file."""


FOLLOWS_BATCH = "edgeres.follows_batch"
"""Metadata of a node whose value is another one for another batch: it is not folded."""


class FoldConstants(ir.passes.InPlacePass):
    """Replaces every node that does not depend on the input by an initializer.

    1. ``Constant`` nodes become initializers.
    2. ``Shape`` of a tensor of known shape becomes an initializer.
    3. ``CastLike`` of an initializer needs only the other tensor's type.
    4. A node whose inputs are all initializers is computed by ONNX's reference evaluator.
    5. Shapes are inferred again, since new constants make more shapes known; repeat.

    Nodes that follow the batch (:mod:`edgeres.exporting.free_batch`) are left alone.

    Args:
        seen: Gets the value of every node that is folded, by the name of its output.
    """

    def __init__(self, seen: dict[str, NDArray[np.generic]] | None = None) -> None:
        super().__init__()
        self._seen = seen

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds until nothing more folds."""
        modified = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(
            model
        ).modified
        for _ in range(_ROUNDS):
            opset = model.opset_imports[""]
            folded = sum([_fold(node, opset, self._seen) for node in model.graph])
            if not folded:
                break
            common.RemoveUnusedNodesPass()(model)
            infer(model)
            modified = True
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No ``Constant`` and no foldable ``Shape`` is left."""
        for node in model.graph:
            if node.op_type == "Constant" and not node.outputs[0].is_graph_output():
                raise ModelError(f"Constant node '{node.name}' could not be folded.")
            if FOLLOWS_BATCH in node.metadata_props:
                continue
            if node.op_type == "Shape" and static_shape(node.inputs[0]) is not None:
                raise ModelError(f"Shape node '{node.name}' was not folded.")


def _fold(node: ir.Node, opset: int, seen: dict[str, NDArray[np.generic]] | None) -> bool:
    """Folds one node; says whether it is gone."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    if node.domain not in ("", "ai.onnx") or FOLLOWS_BATCH in node.metadata_props:
        return False
    match node.op_type:
        case "Shape":
            value: NDArray[np.generic] | None = _shape_of(node)
        case "CastLike":
            value = _cast_like(node)
        case _:
            value = _evaluate(node, opset)
    if value is None:
        return False
    if seen is not None:
        seen[node.outputs[0].name or ""] = value
    return bypass(node, add_constant(node, "value", value))


def _shape_of(node: ir.Node) -> NDArray[np.int64] | None:
    shape = static_shape(node.inputs[0])
    if shape is None:
        return None
    start = node.attributes.get_int("start", 0)
    end = node.attributes.get_int("end", len(shape))
    return np.array(shape[start:end], np.int64)


def _cast_like(node: ir.Node) -> NDArray[np.generic] | None:
    source, like = constant(node.inputs[0]), node.inputs[1]
    if source is None or like is None or like.dtype is None:
        return None
    return source.astype(like.dtype.numpy())


def _drops_at_random(node: ir.Node) -> bool:
    """Whether a node is a Dropout in training mode."""
    return node.op_type == "Dropout" and bool(np.any(constant(input_at(node, 2)) or False))


def _evaluate(node: ir.Node, opset: int) -> NDArray[np.generic] | None:
    """The value of a node whose inputs are all known, unless it is random or too large."""
    present = [v for v in node.inputs if v is not None]
    feeds = {v.name or "": constant(v) for v in present}
    if not present or any(array is None for array in feeds.values()):
        return None
    if (
        node.op_type in RANDOM
        or _drops_at_random(node)
        or any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        )
    ):
        return None
    if node.op_type == "Identity":
        return next(iter(feeds.values()))
    shape = static_shape(node.outputs[0])
    if shape is None or math.prod(shape) > _LARGEST:
        return None
    try:
        result, *_ = ReferenceEvaluator(ir.to_proto(node), opsets={"": opset}).run(None, feeds)
    except MemoryError:
        raise
    except Exception as error:  # numpy's and the evaluator's own, whatever the node asks for
        raise ModelError(
            f"{node.op_type} node '{node.name}' cannot be computed from its constants: {error}.",
            hint="Check the model with onnx.checker and export it again.",
        ) from error
    return np.asarray(result)
