"""From an input of whole numbers in float to one of bytes, which INT8 layers read as they are.

A network that says that it takes pixels (:func:`edgeres.graph.byte_values.takes_pixels`) is
calibrated and compared with float32 inputs. What is built for a device takes ``uint8``. Where a
QuantizeLinear would only give the bytes back, it and what leads to it are left out: the first
convolution then reads the image behind one DequantizeLinear. That this is so is tried for each
of the 256 values of a pixel. Anywhere else a Cast to float32 stands behind the input.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeres.backends.base import QdqRules
from edgeres.graph.byte_values import MIDDLE, is_image, pixel_step, takes_pixels
from edgeres.graph.edit import add_constant, constant, data_input, input_at, only_user
from edgeres.graph.layers import load_model
from edgeres.quantization.scales import QuantParams
from edgeres.system.files import write_atomic

_PIXELS = np.arange(256)


def pixel_steps(model: ir.Model) -> dict[str, float]:
    """The tensors of a network that are ``factor * (pixel - 128)``, by name, with that factor.

    Args:
        model: A float model; one that does not say that it takes pixels has none.
    """
    found = ((node.outputs[0], pixel_step(node.outputs[0])) for node in model.graph)
    steps = {value.name or "": step for value, step in found if step is not None}
    return steps if takes_pixels(model) else {}


def pixel_params(step: float, usual: QuantParams, rules: QdqRules) -> QuantParams:
    """Scale and zero point with which 8 bits hold all that such a tensor can be.

    Args:
        step: Its factor.
        usual: What calibration gives.
        rules: Of the backend: whether zero points are fixed at 0.
    """
    if rules.activation_symmetric:
        return replace(usual, scale=float(np.float32(step * MIDDLE / 127)))
    zero = int(MIDDLE) if usual.dtype == "uint8" else 0
    return replace(usual, scale=float(np.float32(step)), zero_point=zero)


def write_fed(onnx: Path, out: Path) -> None:
    """Writes a float network as engines are fed: with bytes if it takes pixels, else as it is.

    Raises:
        ModelError: It cannot be read.
        StorageError: ``out`` cannot be written.
    """
    model = load_model(onnx)
    if not takes_pixels(model):
        write_atomic(out, onnx.read_bytes())
        return
    take_bytes(model)
    write_atomic(out, ir.to_proto(model).SerializeToString(deterministic=True))


def take_bytes(model: ir.Model) -> None:
    """Gives a network that takes pixels an input of ``uint8``, in place; any other stays.

    Args:
        model: A Q/DQ or a float model.
    """
    if not takes_pixels(model):
        return
    graph = model.graph
    image = graph.inputs[0]
    readers = [(use.node, use.idx) for use in image.uses()]
    quantize = next((node for node in graph if _gives_back(node)), None)
    if quantize is not None and _is_alone(graph, quantize):
        image.dtype = ir.DataType.UINT8
        _read_directly(graph, quantize)
        return
    image.dtype = ir.DataType.UINT8
    cast = ir.Node(
        "",
        "Cast",
        [image],
        attributes=ir.convenience.convert_attributes({"to": int(ir.DataType.FLOAT)}),
        name=f"{image.name}.cast",
    )
    cast.outputs[0].name = f"{image.name}.float"
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    cast.outputs[0].shape = image.shape
    graph.insert_before(graph[0], cast)
    for node, index in readers:
        node.replace_input_with(index, cast.outputs[0])


def _gives_back(node: ir.Node) -> bool:
    """Whether a QuantizeLinear turns ``factor * (pixel - 128)`` into the pixel itself."""
    if node.op_type != "QuantizeLinear" or node.inputs[0] is None:
        return False
    step = pixel_step(node.inputs[0])
    scale, zero = constant(input_at(node, 1)), constant(input_at(node, 2))
    if step is None or scale is None or scale.size != 1 or zero is None or zero.dtype != np.uint8:
        return False
    numbers = (_PIXELS - MIDDLE).astype(np.float32) * np.float32(step)
    stored = np.rint(numbers / np.float32(np.reshape(scale, ()))) + int(np.reshape(zero, ()))
    return bool(np.array_equal(np.clip(stored, 0, 255), _PIXELS))


def _is_alone(graph: ir.Graph, quantize: ir.Node) -> bool:
    """Whether nothing but a QuantizeLinear reads the image, arranged, shifted and scaled."""
    multiply, subtract = _shift_and_scale(quantize)
    arranging = [node for node in graph if is_image(node.outputs[0])]
    values = [graph.inputs[0], *(output for node in arranging for output in node.outputs)]
    readers = {use.node for value in values for use in value.uses()}
    return (
        readers <= {*arranging, subtract}
        and only_user(subtract.outputs[0]) is multiply
        and only_user(multiply.outputs[0]) is quantize
    )


def _shift_and_scale(quantize: ir.Node) -> tuple[ir.Node, ir.Node]:
    """The Mul and the Sub in front of a QuantizeLinear that gives pixels back."""
    multiply = data_input(quantize).producer()
    assert multiply is not None
    subtract = data_input(multiply).producer()
    assert subtract is not None
    return multiply, subtract


def _read_directly(graph: ir.Graph, quantize: ir.Node) -> None:
    """Lets those that read the quantized image read its bytes."""
    multiply, subtract = _shift_and_scale(quantize)
    pixels = data_input(subtract)
    for use in list(quantize.outputs[0].uses()):
        use.node.replace_input_with(use.idx, pixels)
    for node in (quantize, multiply, subtract):
        graph.remove(node, safe=True)
    for node in graph:
        if not is_image(node.outputs[0]):
            continue
        for output in node.outputs:
            output.dtype = ir.DataType.UINT8
        filled = constant(input_at(node, 2)) if node.op_type == "Pad" else None
        if filled is not None:
            rounded = np.clip(np.rint(filled), 0, 255).astype(np.uint8)
            node.replace_input_with(2, add_constant(node, "pixel_black", rounded))
