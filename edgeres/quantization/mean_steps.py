"""Means that are far smaller than what they are taken of.

A mean of N integers has steps of the input's scale over N. Where values cancel, as behind a
normalization, the mean's own range may be many times finer than that. Such steps hold nothing but
the rounding of the input, and ONNX Runtime 1.32 refuses to run them: its kernel takes
``input scale / (output scale * N)`` below 256 only ("parameter out of computation range").
"""

from __future__ import annotations

import math

from edgeres.backends.base import QdqRules
from edgeres.quantization.placement import Placement
from edgeres.quantization.scales import QuantParams, activation_params
from edgeres.quantization.table import CalibrationTable

_BELOW = 0.99  # of the limit: scales are float32


def coarse_enough(
    placement: Placement,
    params: dict[str, QuantParams],
    table: CalibrationTable,
    rules: QdqRules,
) -> dict[str, QuantParams]:
    """The same scales, those of such means as large as the engine takes them.

    Args:
        placement: Where Q/DQ stands.
        params: Scale and zero point by tensor name.
        table: Of the model; it knows how many values a mean is of.
        rules: Of the target; ``most_mean_gain`` is the limit.
    """
    least: dict[str, float] = {}
    for name, readers in placement.readers.items():
        for node, _ in readers:
            mean = node.outputs[0].name or ""
            if node.op_type != "GlobalAveragePool" or mean not in params:
                continue
            stats = table.tensors.get(name) or table.tensors[placement.source[name]]
            values = math.prod(stats.shape[1:])
            step = params[name].scale / (_BELOW * rules.most_mean_gain * values)
            least[placement.source[mean]] = step
    return {
        name: _with_scale(param, least.get(placement.source[name], 0.0), rules)
        for name, param in params.items()
    }


def _with_scale(param: QuantParams, least: float, rules: QdqRules) -> QuantParams:
    """The same range or a wider one, with a scale not below the least."""
    if param.scale >= least:
        return param
    symmetric = rules.activation_symmetric
    return activation_params(param.low, param.high, param.dtype, symmetric=symmetric, least=least)
