"""Another type of activations than a rule set's own, where the engine takes it.

uint8 and int8 with a zero point hold the same numbers; what differs is which kernels an engine has.
"""

from __future__ import annotations

from dataclasses import replace

from edgeres.backends.base import QdqRules
from edgeres.errors import UsageError

AUTO = "auto"


def with_activations(rules: QdqRules, activations: str) -> QdqRules:
    """The rule set with activations of a type.

    Args:
        rules: Of a backend and device.
        activations: ``uint8``, ``int8``, or ``auto`` for the rule set's own.

    Raises:
        UsageError: The engine does not compute that type in INT8.
    """
    if activations in (AUTO, rules.activation_dtype):
        return rules
    if activations not in rules.other_activations:
        raise UsageError(
            f"{rules.name} takes {rules.activation_dtype} activations, not {activations}.",
            hint="Leave `activations` at auto, or name a target that takes them.",
        )
    return replace(
        rules,
        name=f"{rules.name}-{activations}",
        activation_dtype=activations,
        # Two products of the lowest int8 share an int16 where such weights give wrong sums, too.
        products="float" if rules.wrong_lowest_weight else rules.products,
        other_activations=frozenset(),
        others_may_be_faster=False,
    )
