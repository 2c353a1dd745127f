"""``GroupNormalization`` written out, as torch exports it: engines and shape inference know that.

For groups of channels ``y = gamma (x - mean) / sqrt(var + epsilon) + beta`` (Wu and He, 2018,
arXiv:1803.08494), with mean and variance over the group: ``InstanceNormalization`` of the groups,
then one factor and one shift per channel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeres.graph.edit import (
    NodePass,
    add_constant,
    constant,
    data_input,
    input_at,
    insert_before,
    replace,
    static_shape,
)
from edgeres.graph.shapes import infer


class GroupNormForm(NodePass):
    """Writes out every GroupNormalization whose parameters are constant."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Infers again after each: shapes behind one were not known, and there may be more."""
        modified = False
        for node in model.graph:
            if node.op_type == "GroupNormalization" and self.visit(node):
                infer(model)
                modified = True
        return ir.passes.PassResult(model, modified)

    def visit(self, node: ir.Node) -> bool:
        """Writes out one node."""
        source, shape = data_input(node), static_shape(data_input(node))
        gamma, beta = constant(input_at(node, 1)), constant(input_at(node, 2))
        groups = node.attributes.get_int("num_groups", 1)
        if shape is None or gamma is None or beta is None or shape[1] % groups:
            return False
        inner = [shape[0], groups, int(np.prod(shape[1:])) // groups]
        split = add_constant(node, "groups", np.array([-1, *inner[1:]], np.int64))
        joined = add_constant(node, "shape", np.array([-1, *shape[1:]], np.int64))
        ones = add_constant(node, "ones", np.ones(groups, np.float32))
        zeros = add_constant(node, "zeros", np.zeros(groups, np.float32))
        value = insert_before(node, "Reshape", [source, split], inner)
        epsilon = {"epsilon": node.attributes.get_float("epsilon", 1e-5)}
        value = insert_before(node, "InstanceNormalization", [value, ones, zeros], inner, epsilon)
        value = insert_before(node, "Reshape", [value, joined], shape)
        ranks = [1] * (len(shape) - 2)
        factor = add_constant(node, "factor", gamma.reshape(1, -1, *ranks))
        value = insert_before(node, "Mul", [value, factor], shape)
        shift = add_constant(node, "shift", beta.reshape(1, -1, *ranks))
        replace(node, "Add", [value, shift])
        return True
