"""What each emulated CPU says of itself, and what the probes find out on it."""

from __future__ import annotations

import pytest

from .conftest import Arm

ASK = """
import json
from edgeres.backends import get_backend
from edgeres.backends.probe import float_shapes
from edgeres.system.environment import describe_environment
machine = describe_environment(())
told = {"machine": machine.machine, "isa": machine.isa, "int8": machine.int8_instructions}
for name in ("onnxruntime", "openvino"):
    backend = get_backend(name)
    rules = backend.qdq_rules("cpu")
    told[name] = [rules.saturating, rules.wrong_lowest_weight, list(float_shapes(backend))]
print(json.dumps(told))
"""
NAMES = {
    "cortex-a72": "Cortex-A72, Raspberry Pi 4 Model B Rev 1.4",
    "cortex-a76": "Cortex-A76, Raspberry Pi 5 Model B Rev 1.0",
    "i8mm": "Apple M2 Avalanche",
}
DOT_PRODUCTS = {"cortex-a72": set(), "cortex-a76": {"dotprod"}, "i8mm": {"dotprod", "i8mm"}}


@pytest.mark.parametrize("cpu", sorted(NAMES))
def test_a_cpu_is_known_by_its_core_and_probed(arm: Arm, cpu: str) -> None:
    told = arm(cpu, "-c", ASK, read=True)
    assert told["machine"] == NAMES[cpu]
    assert {"dotprod", "i8mm"} & set(told["isa"]) == DOT_PRODUCTS[cpu]
    assert "VNNI" not in told["int8"]
    # Products of -127 to 127 are right everywhere; those of -128 are not (onnxruntime #31573).
    assert told["onnxruntime"] == [False, True, []]
    saturating, _, in_float = told["openvino"]
    assert not saturating  # nor wrong: its INT8 matrix products fall short where snippets are off
    assert in_float == [
        "3x3 convolutions",
        "depthwise 3x3 convolutions",
        "convolutions whose input has a zero point",
    ]


def test_what_makes_matrix_products_wrong_is_refused(arm: Arm) -> None:
    code = (
        "from edgeres.backends import get_backend; from edgeres.backends.base import BuildConfig;"
        "get_backend('openvino').check(BuildConfig(options={'snippets': 'false'}))"
    )
    done = arm("cortex-a76", "-c", code)
    assert "makes INT8 matrix products wrong on Arm" in done.stderr
