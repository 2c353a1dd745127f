"""The form of a graph that the parsers of TensorRT 8.5 and 8.6 (JetPack 5.1 and 6.0) read.

What they do is read in onnx-tensorrt's branch 8.6-GA (``docs/operators.md``,
``builtin_op_importers.cpp``, ``onnx2trt_utils.cpp``): nobody checks the opset, so a later one is
not refused but read as if it were 17. A ReduceMean of opset 18 then loses its axes and averages
over the batch as well. The numbers of the network stay the same here, to the last integer:

1. Opset 17. An operator that changed since is kept where the node means the same in both, the axes
   of a reduction become an attribute, anything else is refused.
2. Scales are float32: the parser reads their bytes as such, whatever their type.
3. Every Q and DQ has a zero point: the parser reads a third input without asking for it.
4. INT8 weights behind a DQ become float32 weights behind a Q and that DQ. A weight is its integer
   times its scale, rounded once to float32, so the Q gives that very integer back.
5. A Conv names its kernel's shape: of weights behind a DQ the parser knows no other.
6. Constants are initializers, inside the file.

Precision on 8.6 is a matter of builder flags (INT8 for Q/DQ, FP16 for the rest), so all of this
stays float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeres.backends.tensorrt.graph import (
    DQ,
    Graph,
    Q,
    attribute,
    free_name,
    nested_node,
    taken_names,
)
from edgeres.errors import ModelError, one_line

OPSET = 17
_IR_VERSION = 8  # of onnx 1.12 and 1.13, whose newest opset is 17 (onnx's docs/Versioning.md)
_HINT = "Use TensorRT 10 or later, or export the network without it."

_REDUCTIONS = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"}
    | {"ReduceMin", "ReduceProd", "ReduceSumSquare"}
)
# Operators whose later versions take more types and mean the same.
_ONLY_TYPES = frozenset(
    {
        "ConstantOfShape", "Conv", "ConvTranspose", "DepthToSpace", "Dropout", "Einsum", "Elu",
        "Equal", "Flatten", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "HardSigmoid",
        "HardSwish", "Identity", "InstanceNormalization", "LpNormalization", "MaxPool", "Pad",
        "Range", "Reshape", "Round", "Selu", "Shape", "Size", "Softplus", "Softsign",
        "SpaceToDepth", "Squeeze", "ThresholdedRelu", "TopK", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# Operators with new attributes: for each the value that means what 17 does.
_NEW_ATTRIBUTES: Mapping[str, Mapping[str, object]] = {
    "AveragePool": {"dilations": [1, 1]},
    "Cast": {"saturate": 1, "round_mode": "up"},
    Q: {"saturate": 1, "block_size": 0, "output_dtype": onnx.TensorProto.INT8, "precision": 0},
    DQ: {"block_size": 0, "output_dtype": onnx.TensorProto.FLOAT},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": "stretch"},
}


def to_opset17(graph: Graph, out: Path) -> None:
    """Writes the graph as TensorRT 8.5 and 8.6 read it; see the module's rules.

    Args:
        graph: A linted Q/DQ or float graph of any opset.
        out: Where the ONNX file goes; weights lie inside.

    Raises:
        ModelError: An operator without a form in opset 17, or a graph inside a node.
    """
    nested = nested_node(graph.model)
    if nested is not None:
        raise ModelError(f"{nested}: holds a graph of its own, made for opset 17.", hint=_HINT)
    opsets = {item.domain: item.version for item in graph.model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    writer = _Writer(graph)
    for node in graph.model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if opset > OPSET:
            _lower(copy, graph, opset)
        if copy.op_type in {Q, DQ}:
            writer.quantizer(copy)
        elif copy.op_type == "Conv" and copy.input[1] not in graph.constants:
            writer.kernel_shape(copy)
        if copy.op_type != "Constant" or copy.output[0] not in graph.constants:
            writer.nodes.append(copy)
    model = writer.model(min(opset, OPSET))
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker passes on whatever the C++ underneath raises
        raise ModelError(
            f"the model has no form in opset {OPSET}, which TensorRT 8.6 reads at most: "
            f"{one_line(error)}.",
            hint=_HINT,
        ) from error
    out.write_bytes(model.SerializeToString(deterministic=True))


def _lower(node: onnx.NodeProto, graph: Graph, opset: int) -> None:
    """Makes a node of a later opset one of opset 17 that means the same."""
    if node.domain not in {"", "ai.onnx"} or not _changed(node.op_type, opset):
        return
    if node.op_type in _REDUCTIONS and _lower_reduction(node, graph):
        return
    defaults = {} if node.op_type in _ONLY_TYPES else _NEW_ATTRIBUTES.get(node.op_type)
    if defaults is not None and onnx.defs.has(node.op_type, OPSET):
        known = onnx.defs.get_schema(node.op_type, OPSET)
        new = [item for item in node.attribute if item.name not in known.attributes]
        meaningless = all(defaults.get(item.name) == _value(item) for item in new)
        if meaningless and not any(node.input[len(known.inputs) :]):
            kept = [item for item in node.attribute if item.name in known.attributes]
            _set_attributes(node, kept)
            del node.input[len(known.inputs) :]
            return
    raise ModelError(
        f"{node.name or node.op_type}: {node.op_type} of opset {opset} has no form in opset "
        f"{OPSET}, which TensorRT 8.6 reads at most.",
        hint=_HINT,
    )


def _changed(op_type: str, opset: int) -> bool:
    if not onnx.defs.has(op_type, OPSET):
        return True
    versions = [onnx.defs.get_schema(op_type, number).since_version for number in (opset, OPSET)]
    return versions[0] != versions[1]


def _lower_reduction(node: onnx.NodeProto, graph: Graph) -> bool:
    """Turns constant axes into an attribute; tells whether the node has a form in opset 17."""
    axes = graph.constants.get(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    given = len(node.input) > 1 and bool(node.input[1])
    if given and axes is None:
        return False
    empty = axes is None or axes.size == 0
    if empty and attribute(node, "noop_with_empty_axes", 0):
        return False
    kept = [item for item in node.attribute if item.name == "keepdims"]
    if axes is not None and not empty:
        kept.append(helper.make_attribute("axes", [int(axis) for axis in axes.ravel()]))
    _set_attributes(node, kept)
    del node.input[1:]
    return True


def _value(item: onnx.AttributeProto) -> object:
    value = helper.get_attribute_value(item)
    return value.decode() if isinstance(value, bytes) else value


def _set_attributes(node: onnx.NodeProto, items: list[onnx.AttributeProto]) -> None:
    copies = []
    for item in items:
        copy = onnx.AttributeProto()
        copy.CopyFrom(item)
        copies.append(copy)
    del node.attribute[:]
    node.attribute.extend(copies)


class _Writer:
    """The nodes and constants of the new model while it is written."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, NDArray[np.generic]] = {}
        self.taken = taken_names(graph.model)

    def quantizer(self, node: onnx.NodeProto) -> None:
        """Rules 2, 3 and 4 for a Q or a DQ."""
        constants = self.graph.constants
        scale = constants[node.input[1]].astype(np.float32)
        if scale.dtype != constants[node.input[1]].dtype:
            node.input[1] = self._constant(f"{node.input[1]}_float32", scale)
        if len(node.input) < 3 or not node.input[2]:
            zero = self._constant(f"{node.output[0]}_zero_point", np.zeros(scale.shape, np.int8))
            del node.input[2:]
            node.input.append(zero)
        integers = constants.get(node.input[0]) if node.op_type == DQ else None
        if integers is None:
            return
        axis = attribute(node, "axis", 1) % max(integers.ndim, 1)
        shape = [1] * integers.ndim
        if scale.size > 1:
            shape[axis] = scale.size
        weights = (integers.astype(np.float32) * scale.reshape(shape)).astype(np.float32)
        label = f"{node.output[0]}_quantized"
        source = self._constant(f"{node.output[0]}_float32", weights)
        result = free_name(label, self.taken)
        name = free_name(f"{node.name or label}_{Q}", self.taken)
        quantizer = helper.make_node(Q, [source, *node.input[1:3]], [result], name)
        quantizer.attribute.extend(item for item in node.attribute if item.name == "axis")
        node.input[0] = result
        self.nodes.append(quantizer)

    def kernel_shape(self, node: onnx.NodeProto) -> None:
        """Rule 5 for a Conv whose weights are no plain constant."""
        producer = self.graph.producers.get(node.input[1])
        while producer is not None and producer.op_type in {Q, DQ}:
            weights = self.graph.constants.get(producer.input[0])
            if weights is not None:
                if not any(item.name == "kernel_shape" for item in node.attribute):
                    spatial = list(weights.shape[2:])
                    node.attribute.append(helper.make_attribute("kernel_shape", spatial))
                return
            producer = self.graph.producers.get(producer.input[0])

    def model(self, opset: int) -> onnx.ModelProto:
        """The new model, with the constants that its nodes read."""
        old = self.graph.model.graph
        used = {name for node in self.nodes for name in node.input}
        used.update(value.name for value in old.output)
        constants = {**self.graph.constants, **self.made}
        names = [name for name in constants if name in used]
        graph = helper.make_graph(
            self.nodes,
            old.name or "graph",
            [value for value in old.input if value.name not in self.graph.constants],
            list(old.output),
            [numpy_helper.from_array(np.asarray(constants[name]), name) for name in names],
        )
        imports = [helper.make_opsetid("", opset)]
        imports += [i for i in self.graph.model.opset_import if i.domain not in {"", "ai.onnx"}]
        return helper.make_model(graph, opset_imports=imports, ir_version=_IR_VERSION)

    def _constant(self, wanted: str, content: NDArray[np.generic]) -> str:
        name = free_name(wanted, self.taken)
        self.made[name] = content
        return name
