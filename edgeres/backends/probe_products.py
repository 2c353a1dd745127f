"""Asks an engine, by running it, whether INT8 products of two computed tensors are added rightly.

Attention multiplies tensors that are both computed from the image. Both of them may be as large as
their type allows, no weight can be moved out of the way, and engines have kernels of their own for
such products: uint8 * uint8, or int8 * int8 whose one side is made uint8 on the way.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeres.backends.base import Backend, BuildConfig
from edgeres.system.temporary import temporary_folder

if TYPE_CHECKING:
    import onnx

_ROWS, _LENGTH = 16, 64
_OPSET, _IR_VERSION = 20, 10


@cache
def products_overflow(
    backend: Backend, dtype: Literal["uint8", "int8"], device: str = "cpu"
) -> bool:
    """Whether a MatMul of two quantized inputs answers with another sum than the right one.

    All values are the largest of their type, then the lowest; the scales are 1, the zero points 0.
    Asked once a process for each backend, type and device.

    Args:
        backend: A backend that can execute here.
        dtype: Type of both inputs.
        device: One of the backend's devices.

    Raises:
        BackendMissingError: The runtime or the device is not here.
        ModelError: The engine refuses the model.
    """
    config = BuildConfig(device=device, threads=1)
    with temporary_folder() as folder:
        source = folder / "probe.onnx"
        source.write_bytes(_model(dtype).SerializeToString())
        engine = backend.build(source, folder / f"engine{backend.engine_suffix}", config)
        with backend.load(engine, config) as runner:
            for value in map(float, (np.iinfo(dtype).max, np.iinfo(dtype).min)):
                image = np.full((1, _ROWS, _LENGTH), value, np.float32)
                answer = runner.infer({"x": image})["y"]
                if not np.allclose(answer, _LENGTH * value**2, rtol=1e-3):
                    return True
    return False


def _model(dtype: str) -> onnx.ModelProto:
    """The image, as integers, times itself turned, as integers as well."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[0, 2, 1])]
    constants = [numpy_helper.from_array(np.zeros((), dtype), "zero")]
    for side in ("x", "t"):
        scale = f"{side}_scale"
        constants.append(numpy_helper.from_array(np.ones((), np.float32), scale))
        quantized = [side, scale, "zero"]
        nodes += [
            helper.make_node("QuantizeLinear", quantized, [f"{side}_int"], name=f"{side}_q"),
            helper.make_node(
                "DequantizeLinear", [f"{side}_int", scale, "zero"], [f"{side}_float"],
                name=f"{side}_dq",
            ),
        ]  # fmt: skip
    nodes.append(helper.make_node("MatMul", ["x_float", "t_float"], ["y"], name="product"))
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "probe",
        [tensor("x", TensorProto.FLOAT, (1, _ROWS, _LENGTH))],
        [tensor("y", TensorProto.FLOAT, (1, _ROWS, _ROWS))],
        constants,
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
    )
