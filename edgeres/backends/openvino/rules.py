"""The rules under which OpenVINO's plugins fuse a ResNet into INT8 kernels."""

from __future__ import annotations

from edgeres.backends.base import QdqRules

RULES = QdqRules(
    name="openvino-cpu",
    activation_dtype="uint8",
    activation_symmetric=False,
    ops=frozenset(
        {
            "Conv",
            "Gemm",
            "MatMul",
            "Add",
            "MaxPool",
            "AveragePool",
            "GlobalAveragePool",
            "ReduceMean",
        }
    ),
    bias="float",
    residual="skip",
    wrong_groups=frozenset({2}),  # zeros, with two channels in all
    wrong_group_epilogue=True,  # without AVX-512
    least_pool=16,  # without AVX-512; int8 ones it refuses
    least_add_offset=1.1e-5,  # it drops the offset of an Add below 1e-5
    refuses_pad_values=True,
    concat_barrier=True,
    factor_barrier=True,
    clips_integers=True,
    epilogues=frozenset(
        {
            "PRelu",
            "LeakyRelu",
            "Elu",
            "Sigmoid",
            "HardSigmoid",
            "HardSwish",
            "Gelu",
            "Tanh",
            "Mul",
            "Div",
        }
    ),
    float_adds=True,
    float_norms=True,
    sinks_strides=True,
    products="symmetric",
)
"""At a residual Add only the skip input takes Q/DQ: the convolution on the main path adds it in its
own accumulator and rounds once (Q/DQ on both inputs is no quicker and loses a bit of accuracy).
Pooling and mean run in INT8 as well, so their inputs take Q/DQ; the bias stays float."""
