"""ONNX Runtime's execution providers: which device each serves, what it wants, where it comes from.

One row a provider. The facts are those of ONNX Runtime's page on each provider; none has run on its
hardware. What was run is that each is refused where it is missing, the fall-back to the CPU
(:mod:`.providers`), fixed shapes, and the registration of the plugins of OpenVINO and TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: ONNX Runtime's name.
        devices: Kinds of device (``cpu``, ``cuda``, ``gpu``, ``npu``) that it serves, and the
            options that choose one of them; ``{index}`` stands for its number.
        install: How to get it, a sentence.
        needs: What it needs beside its package, a sentence.
        plugin: Module of a provider that is a package of its own, else empty.
        static_shapes: It takes nodes of fixed shape only: the batch is then 1.
        qdq: The Q/DQ that it computes in INT8: ``unsigned`` or ``signed`` activations under rules
            like the CPU's, or those of another engine. ``float`` takes any and computes it in
            float, ``refused`` takes none. Sources are in :mod:`.rules`.
        float_ops: Of the ops that the CPU has in INT8, those that stay float on this provider.
        memory_pattern: False where ONNX Runtime's memory pattern must be off.
        options: Its own options, always.
        quantized: Its own options for a file with Q/DQ.
    """

    name: str
    devices: Mapping[str, Mapping[str, str]]
    install: str
    needs: str = "Check the driver of the device."
    plugin: str = ""
    static_shapes: bool = False
    qdq: Literal["unsigned", "signed", "tensorrt", "openvino", "float", "refused"] = "unsigned"
    float_ops: frozenset[str] = frozenset()
    memory_pattern: bool = True
    options: Mapping[str, str] = field(default_factory=dict)
    quantized: Mapping[str, str] = field(default_factory=dict)


_NVIDIA = "It needs an NVIDIA GPU with its driver (libcuda)."

PROVIDERS = {
    "cuda": Provider(
        "CUDAExecutionProvider",
        {"cuda": {"device_id": "{index}"}},
        "Install it: pip install onnxruntime-gpu.",
        _NVIDIA,
        qdq="float",
        # float32 is float32; by itself it keeps 10 bits of a factor.
        options={"use_tf32": "0"},
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        {"cuda": {"device_id": "{index}"}},
        "Install it: pip install onnxruntime-gpu, and TensorRT's libraries.",
        _NVIDIA,
        qdq="tensorrt",
        quantized={"trt_int8_enable": "1"},
    ),
    "tensorrt_rtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        {"cuda": {}},
        "Install it: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13.",
        "It needs an NVIDIA GPU with its driver (libcuda), an RTX one of compute capability 8.0, "
        "8.6, 8.9, 12.0 or later.",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        qdq="tensorrt",
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        {
            "cpu": {"device_type": "CPU"},
            "gpu": {"device_type": "GPU.{index}"},
            "npu": {"device_type": "NPU"},
        },
        "Install it: pip install onnxruntime-ep-openvino.",
        "It takes Intel's processors only, and a GPU or NPU only with its driver.",
        plugin="onnxruntime_ep_openvino",
        qdq="openvino",
    ),
    "xnnpack": Provider(
        "XnnpackExecutionProvider",
        {"cpu": {}},
        "No published package has it: build ONNX Runtime with its own switch use_xnnpack.",
        "Sums of blocks and the last layer stay on the CPU: option cpu_fallback=allow.",
        static_shapes=True,
        qdq="signed",
        float_ops=frozenset(
            {"Gemm", "MatMul", "Add", "Mul", "Sigmoid", "LeakyRelu", "GlobalAveragePool"}
        ),
    ),
    "qnn": Provider(
        "QNNExecutionProvider",
        {"npu": {"backend_type": "htp"}},
        "Install it on Windows for Arm or on Snapdragon Linux: pip install onnxruntime-qnn.",
        "It needs a Snapdragon with a Hexagon NPU and its driver.",
        plugin="onnxruntime_qnn",
        static_shapes=True,
        float_ops=frozenset({"MatMul"}),
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider",
        {
            "gpu": {"MLComputeUnits": "CPUAndGPU"},
            "npu": {"MLComputeUnits": "CPUAndNeuralEngine"},
        },
        "It is part of onnxruntime for macOS: pip install onnxruntime there.",
        "It needs macOS 12 or later.",
        static_shapes=True,
        qdq="refused",
        options={"ModelFormat": "MLProgram", "RequireStaticInputShapes": "1"},
    ),
    "directml": Provider(
        "DmlExecutionProvider",
        {"gpu": {"device_id": "{index}"}},
        "Install it on Windows: pip install onnxruntime-directml.",
        "It needs a GPU of DirectX 12.",
        static_shapes=True,
        float_ops=frozenset({"Mul", "Sigmoid", "LeakyRelu"}),
        memory_pattern=False,
    ),
}
DEFAULTS = {"cuda": "cuda"}
"""The provider of a kind of device where none is named; a CPU has ONNX Runtime's own."""
