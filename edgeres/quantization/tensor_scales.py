"""Scale and zero point of every tensor that takes Q/DQ: from its range, as a rule set asks."""

from __future__ import annotations

import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.graph.layers import multiplies_activations
from edgeres.quantization.byte_input import pixel_params, pixel_steps
from edgeres.quantization.placement import Placement
from edgeres.quantization.qat_parameters import QatParameters
from edgeres.quantization.scales import QuantParams, activation_params
from edgeres.quantization.table import CalibrationTable
from edgeres.recipe.quantize import QuantizeSettings


def tensor_scales(
    model: ir.Model,
    placement: Placement,
    table: CalibrationTable,
    rules: QdqRules,
    settings: QuantizeSettings,
    qat: QatParameters | None,
) -> dict[str, QuantParams]:
    """Scale and zero point of each tensor; ops that only move values keep those of their input.

    Args:
        model: The float model. Tensors that are made of its pixels alone need no calibration.
        placement: Where Q/DQ stands in it.
        table: Its calibration table.
        rules: Of the backend.
        settings: Which ranges of the table.
        qat: What training learned, which is taken as it is.

    Raises:
        ArtefactError: The table or what was trained lacks a tensor.
    """
    if qat is not None:
        return {name: qat.activations[placement.source[name]] for name in placement.tensors}
    params: dict[str, QuantParams] = {}
    steps = pixel_steps(model)
    added = {
        placement.source[name]
        for name, readers in placement.readers.items()
        if any(node.op_type == "Add" for node, _ in readers)
    }
    factors = {
        name: {index for node, index in readers if multiplies_activations(node)}
        for name, readers in placement.readers.items()
        if rules.products == "symmetric"
    }
    for name in placement.tensors:
        value_range = table.range_of(placement.source[name], settings.calibrator)
        low, high = value_range.low, value_range.high
        if low < 0.0 and placement.source[name] in added:
            low = min(low, -rules.least_add_offset)
        factor = factors.get(name, set())
        # Without values below zero the zero point is 0 in any case; the second must be int8.
        signed = (low < 0.0 and bool(factor)) or 1 in factor
        symmetric = rules.activation_symmetric or signed
        if symmetric:
            low, high = -value_range.magnitude, value_range.magnitude
        usual = activation_params(
            low,
            high,
            "int8" if signed else rules.activation_dtype,
            symmetric=symmetric,
            least=rules.least_scale,
        )
        step = steps.get(placement.source[name])
        params[name] = usual if step is None else pixel_params(step, usual, rules)
    return params
