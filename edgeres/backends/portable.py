"""One rule set that satisfies several: a single Q/DQ file that every one of the engines accepts.

The strictest demand wins each time. Where engines disagree about the type of activations the file
is symmetric INT8: a Relu then no longer vanishes into the zero point of the Q behind it, so Q/DQ
stands before it too, with the same scale. The price: the sign bit is wasted behind a Relu, Relus
run as ops of their own, and Q/DQ on both inputs of a residual Add keeps some engines from fusing
it into the convolution. Weights are always saturation-safe, since the file may run anywhere.
`docs/quantization.md` states what all that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from edgeres.backends.base import QdqRules
from edgeres.errors import UsageError

PORTABLE = "portable"


def portable_rules(rules: Sequence[QdqRules]) -> QdqRules:
    """The rule set whose files obey all of the given ones.

    Args:
        rules: Of the backends and devices that shall take the same file.

    Raises:
        UsageError: There are none, or they share no op.
    """
    if not rules:
        raise UsageError("a portable file needs the rules of at least one target.")
    ops = reduce(frozenset.__and__, (each.ops for each in rules))
    if not ops:
        names = ", ".join(each.name for each in rules)
        raise UsageError(f"{names} have no INT8 op in common, so no file can serve them all.")
    signed = any(each.activation_dtype == "int8" for each in rules)
    mixed = len({each.activation_dtype for each in rules}) > 1
    symmetric = any(each.activation_symmetric for each in rules)
    stored = any(each.quantize_outputs for each in rules)
    coarse = any(each.weight_granularity == "per_tensor" for each in rules)
    return QdqRules(
        name=PORTABLE,
        activation_dtype="int8" if signed else "uint8",
        activation_symmetric=symmetric,
        ops=ops,
        weight_granularity="per_tensor" if coarse else "per_channel",
        bias="float" if any(each.bias == "float" for each in rules) else "int32",
        residual="both" if any(each.residual == "both" for each in rules) else "skip",
        quantize_before_relu=mixed and stored,
        quantize_outputs=stored,
        pair_per_reader=mixed,
        wrong_lowest_weight=any(each.wrong_lowest_weight for each in rules),
        least_scale=max(each.least_scale for each in rules),
        most_mean_gain=min(each.most_mean_gain for each in rules),
        least_add_offset=max(each.least_add_offset for each in rules),
        wrong_groups=frozenset[int]().union(*(each.wrong_groups for each in rules)),
        wrong_group_epilogue=any(each.wrong_group_epilogue for each in rules),
        least_pool=max(each.least_pool for each in rules),
        refuses_pad_values=any(each.refuses_pad_values for each in rules),
        quantizes_floats=any(each.quantizes_floats for each in rules),
        concat_barrier=any(each.concat_barrier for each in rules),
        factor_barrier=any(each.factor_barrier for each in rules),
        clips_integers=any(each.clips_integers for each in rules),
        saturating=True,  # the file may go to a CPU that this machine knows nothing of
    )
