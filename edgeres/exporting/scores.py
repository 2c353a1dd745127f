"""The outputs of a foreign model that are judged, chosen by name where there are more.

A classifier has one, and what is no set of class scores is refused here, and not judged as if it
were. Other tasks read one output or several, of any shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from edgeres.errors import ModelError
from edgeres.graph.edit import static_shape

_LISTED = 8
_VIEWS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast"})
_NORM_PARTS = frozenset({"Clip", "Max", "Add", "Expand", "Sqrt", "ReduceSum", "Identity", "Cast"})


def choose_outputs(model: ir.Model, outputs: Sequence[str], *, classes: bool) -> None:
    """Keeps the graph outputs that the user named; with none named, the only one, or all.

    A tensor inside the network may be named too, such as the logits in front of an activation.

    Args:
        model: The model.
        outputs: Names; empty where nobody named any.
        classes: Whether a classifier is wanted, of which one output is judged.

    Raises:
        ModelError: A classifier with several and not one named, or no such tensor; the outputs are
            listed.
    """
    names = [value.name or "" for value in model.graph.outputs]
    if classes and len(outputs or names) != 1:
        got = f"--output-name names {len(outputs)}" if outputs else f"got {len(names)}"
        raise ModelError(
            f"Expected one output, {got}: {_listed(outputs or names)}.",
            hint="Name the one that holds the class scores: --output-name NAME "
            "(`model: {outputs: [NAME]}`), or say what they mean: --task outputs compares all of "
            "them with the float network's.",
        )
    known = {value.name: value for node in model.graph for value in node.outputs}
    known |= {value.name: value for value in model.graph.outputs}
    for output in outputs:
        if output not in known:
            raise ModelError(
                f"There is no output '{output}'; there are {_listed(names)}.",
                hint="Give --output-name one of them (`model: {outputs: [NAME]}`).",
            )
    if outputs:
        model.graph.outputs.clear()
        model.graph.outputs.extend(known[name] for name in dict.fromkeys(outputs))


def check_outputs(model: ir.Model) -> None:
    """Checks the outputs of a network of any task for a batch of one.

    Raises:
        ModelError: One is not ``(1, ...)`` float32 of a known shape, or is an input as it came.
    """
    for value in model.graph.outputs:
        shape = static_shape(value)
        if value.producer() is None or shape is None or shape[:1] != (1,):
            raise ModelError(
                f"Expected one answer (N, ...) for each sample at output '{value.name}', got "
                f"{value.type} {value.shape} for one.",
                hint="--output-name names the outputs that are judged; leave this one out.",
            )
        if value.dtype != ir.DataType.FLOAT:
            raise ModelError(
                f"Expected float32 at output '{value.name}', got {value.type}.",
                hint="--output-name names the outputs that are judged; give the tensor that this "
                "one is made from.",
            )


def check_scores(model: ir.Model) -> int:
    """Checks the output for a batch of one and returns the number of scores.

    One score is that of a two-class network and must be the probability of class 1, behind a
    Sigmoid.

    Raises:
        ModelError: Not ``(1, K)`` float32, with other dimensions of 1 at most, or scores of another
            task: several labels an image, an embedding, a number.
    """
    value = model.graph.outputs[0]
    shape = static_shape(value)
    good = shape is not None and shape[:1] == (1,) and sum(size != 1 for size in shape[1:]) <= 1
    if shape is None or not good or value.dtype != ir.DataType.FLOAT:
        raise ModelError(
            f"Expected class scores (N, K) float32 at output '{value.name}', got "
            f"{value.type} {value.shape} for one image.",
            hint="A classifier is expected where no --task is given; --output-name takes another "
            "output or tensor of the network, if one of them holds the scores.",
        )
    scores = math.prod(shape)
    _check_task(value, scores)
    return scores


def _check_task(value: ir.Value, scores: int) -> None:
    last = _behind_views(value)
    sigmoid = last is not None and last.op_type == "Sigmoid"
    if sigmoid and scores > 1:
        before = last.inputs[0].name if last is not None and last.inputs[0] is not None else ""
        raise ModelError(
            f"Output '{value.name}' ends in a Sigmoid for each of {scores} scores: several labels "
            "an image, which top-1 accuracy does not judge.",
            hint="Give --task multilabel (`task: {name: multilabel}`). If one class an image is "
            f"right all the same, judge what the Sigmoid reads: --output-name {before}.",
        )
    if _is_normalized(last):
        raise ModelError(
            f"Output '{value.name}' is divided by its own length: an embedding of {scores} "
            "numbers, which top-1 accuracy does not judge.",
            hint="Give --task embedding (`task: {name: embedding}`), or name the class scores with "
            "--output-name.",
        )
    if scores == 1 and not sigmoid:
        raise ModelError(
            f"Output '{value.name}' is one number an image and no probability: it does not end in "
            "a Sigmoid.",
            hint="A two-class network must end in a Sigmoid or have two scores; give --task "
            "regression (`task: {name: regression}`) where the number itself is the answer.",
        )


def _behind_views(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _VIEWS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _is_normalized(node: ir.Node | None) -> bool:
    """True for a division by the length of what is divided, however it is written."""
    if node is None:
        return False
    if node.op_type == "LpNormalization":
        return True
    if node.op_type not in ("Div", "Mul") or len(node.inputs) != 2:
        return False
    return any(_is_length(node.inputs[1 - index], node.inputs[index]) for index in range(2))


def _is_length(value: ir.Value | None, of: ir.Value | None) -> bool:
    waiting = [value]
    for _ in range(12):  # a norm is a handful of nodes
        if not waiting:
            return False
        node = current.producer() if (current := waiting.pop()) is not None else None
        if node is None:
            continue
        if node.op_type in ("ReduceL2", "ReduceSumSquare"):
            return node.inputs[0] is of
        if node.op_type in ("Mul", "Pow") and node.inputs[0] is of:
            return True
        if node.op_type in _NORM_PARTS | {"Reciprocal", "Div", "Pow"}:
            waiting += list(node.inputs)
    return False


def _listed(things: Sequence[str]) -> str:
    more = len(things) - _LISTED
    return ", ".join(things[:_LISTED]) + (f" and {more} more" if more > 0 else "")
