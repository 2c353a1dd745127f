"""Which Q/DQ each of ONNX Runtime's providers computes in INT8.

What was measured is the CPU's own. The others are as their documents or sources say:

- XNNPACK (``core/providers/xnnpack/detail/utils.cc``): no uint8 activations with int8 weights;
  uint8 ones go with uint8 weights of one scale, int8 ones with int8 weights per channel. Its page
  lists Conv, AveragePool and MaxPool among the ops that take Q/DQ.
- QNN (``docs/execution-providers/QNN-ExecutionProvider.md``): uint8 and uint16 activations on the
  NPU; a MatMul takes unsigned matrices only. uint16 is not written here.
- DirectML (``qdq_selector_action_transformer.cc``): the CPU's fusions but Mul; activations were
  fused that it has no kernel for (onnxruntime #26882), so Sigmoid stays float, too.
- TensorRT and TensorRT for RTX: int8 with zero point 0, as TensorRT itself.
- OpenVINO: as OpenVINO itself.
- CUDA computes Q, DQ and the op between in float. CoreML's page lists neither Q nor DQ.
"""

from __future__ import annotations

from dataclasses import replace

from edgeres.backends.base import QdqRules
from edgeres.backends.onnxruntime.provider_table import Provider
from edgeres.system.environment import is_arm

_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})

RULES = QdqRules(
    name="onnxruntime-cpu",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=frozenset({"Conv", "Gemm", "MatMul", "Add", "Mul", "Sigmoid", "LeakyRelu", *_POOLS}),
    bias="int32",
    residual="both",
    quantize_outputs=True,
    most_mean_gain=256.0,
    quantizes_floats=True,
)
"""The rules under which the CPU provider fuses a ResNet into INT8 kernels.

It fuses ``DQ -> op -> Q`` only, so both inputs of a residual Add and every output take Q/DQ.
Activations have a zero point: a Relu disappears into the Q behind it only where zero is the lowest
value. Mul, Sigmoid (SE, SiLU) and LeakyRelu are quicker in INT8, Concat is not.
"""


def cpu_rules() -> QdqRules:
    """Of the CPU's own provider, on this architecture.

    On Arm int8 activations are computed in INT8 throughout, and the kernels for symmetric weights
    (``MlasSymmQgemmS8Dispatch...`` in ``mlas/lib/platform.cpp``) are theirs alone; uint8 ones are
    made int8 on the way (onnxruntime PR #9902; #10289 measured 2 to 25 % on two phones). Which is
    faster on a core, only that core tells. On x86 they are made uint8 where a tensor has one
    reader, and left in float elsewhere.
    """
    return replace(
        RULES,
        products="activations",  # other providers were not measured
        other_activations=frozenset({"int8"}),
        others_may_be_faster=is_arm(),
    )


def provider_rules(label: str, provider: Provider, device: str) -> QdqRules | None:
    """Of another provider; ``None`` for one that does not compute Q/DQ in INT8.

    Args:
        label: Its name as an option.
        provider: Its row of the table.
        device: Where it is to run; decides nothing but the name.
    """
    name = f"onnxruntime-{label}"
    if provider.qdq == "tensorrt":
        from edgeres.backends.tensorrt.backend import BACKEND

        return replace(BACKEND.qdq_rules(device), name=name)
    if provider.qdq == "openvino":
        from edgeres.backends.openvino.rules import RULES as OPENVINO

        return replace(OPENVINO, name=name)
    if provider.qdq == "unsigned":
        return replace(RULES, name=name, ops=RULES.ops - provider.float_ops)
    if provider.qdq == "signed":
        ops = RULES.ops - provider.float_ops
        return replace(RULES, name=name, ops=ops, activation_dtype="int8")
    return None
