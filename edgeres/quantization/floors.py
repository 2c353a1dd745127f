"""Tensors that are smaller than the least scale of a rule set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgeres.backends.base import QdqRules
from edgeres.quantization.placement import Placement
from edgeres.quantization.qdq_view import Finding
from edgeres.quantization.scales import QuantParams
from edgeres.quantization.table import CalibrationTable


def floored(
    placement: Placement,
    params: Mapping[str, QuantParams],
    table: CalibrationTable,
    rules: QdqRules,
    calibrator: str,
) -> Iterator[Finding]:
    """Finds tensors that lose their values because the rule set holds no scale that small.

    Args:
        placement: Where Q/DQ stands.
        params: Scale and zero point by tensor name.
        table: Of the model.
        rules: Of the target.
        calibrator: Whose ranges were taken.
    """
    for name, param in params.items():
        source = placement.source[name]
        value_range = table.range_of(source, calibrator)
        span = max(-value_range.low, value_range.high, value_range.magnitude)
        if param.scale <= rules.least_scale and 0.0 < span < 16 * rules.least_scale:
            text = (
                f"its values reach {span:.3g} only, and {rules.name} holds no scale below "
                f"{rules.least_scale:.3g}: nearly all of them become 0. Scale the network's "
                "weights up, or quantize for another target."
            )
            yield Finding("scale", name, text)
