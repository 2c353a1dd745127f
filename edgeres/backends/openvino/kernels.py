"""Compiling a Q/DQ model where OpenVINO has no kernel for the INT8 form of some of its layers.

On Arm the INT8 convolution takes no zero point, so OpenVINO computes one whose input has one in
float16, in reference code (``FallbackUnsupportedLPConvToFP16`` in its sources), and on a CPU
without float16, a Raspberry Pi 4, it refuses the whole model. Which layers it cannot do is not
looked up but tried: what does not compile alone, or was compiled in float16, gets its weights as
the floats that they stand for. OpenVINO then computes that layer in FP32, with the numbers that
the Q/DQ file says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgeres.system.environment import is_arm
from edgeres.system.extras import import_extra

Compile = Callable[[Any], Any]
"""``openvino.Model`` -> ``openvino.CompiledModel``; raises ``RuntimeError``."""

PRODUCTS = frozenset({"Convolution", "GroupConvolution", "MatMul"})
_DEQUANTIZE = frozenset({"Convert", "Subtract", "Multiply"})
_INT8 = ("i8", "u8")
_HALF = "f16"


def compile_where_possible(
    model: Any, compile_model: Compile, known: Mapping[str, str]
) -> tuple[Any, dict[str, str]]:
    """Compiles a model for a CPU, with layers that it has no INT8 kernel for in float.

    Args:
        model: An ``openvino.Model``, which stays as it is.
        compile_model: Compiles one, its float layers in FP32 or BF16.
        known: Layers that are known to need it, by name, with the reason.

    Returns:
        The compiled model, and the layers that run in float for want of a kernel, with the reason.

    Raises:
        RuntimeError: OpenVINO does not compile the model, not even with all layers in float.
    """
    quantized = {node.get_friendly_name(): node for node in _quantized(model)}
    in_float = dict(known)
    try:
        compiled = compile_model(_with_float_weights(model, list(in_float)))
        # Only the plugin for Arm has such a fall-back, and telling its layers takes time.
        halved = _halved(compiled, quantized) if is_arm() else []
        if not halved:
            return compiled, in_float
        in_float |= {name: _reason(quantized[name]) for name in halved}
    except RuntimeError:
        if not quantized.keys() - in_float.keys():
            raise
        refused = _refused(model, quantized, compile_model)
        in_float |= {name: _reason(quantized[name]) for name in refused or quantized}
    try:
        return compile_model(_with_float_weights(model, list(in_float))), in_float
    except RuntimeError:
        in_float |= {name: _reason(node) for name, node in quantized.items()}
        return compile_model(_with_float_weights(model, list(in_float))), in_float


def _quantized(model: Any) -> Iterator[Any]:
    """Layers whose weights are dequantized from 8 bits."""
    for node in model.get_ordered_ops():
        if node.get_type_name() in PRODUCTS and _is_int8(_behind(node.input_value(1))):
            yield node


def _behind(value: Any) -> Any:
    """The 8-bit value that a value was made of, past what has constants beside it; or the last."""
    while not _is_int8(value):
        node = value.get_node()
        first, *others = node.input_values() or [None]
        if first is None or not all(_is_constant(other.get_node()) for other in others):
            return value
        value = first
    return value


def _is_int8(value: Any) -> bool:
    return value.get_element_type().get_type_name() in _INT8


def _with_float_weights(model: Any, names: Sequence[str]) -> Any:
    """A copy with the weights of these layers as float32 constants; the model where none is."""
    if not names:
        return model
    openvino = import_extra("openvino", extra="openvino")
    passes = import_extra("openvino.passes", extra="openvino")
    model = model.clone()
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in names:
            weights = openvino.Model([node.input_value(1)], [])
            manager = passes.Manager()
            manager.register_pass(passes.ConstantFolding())
            manager.run_passes(weights)
            constant = weights.get_results()[0].input_value(0)
            node.input(1).replace_source_output(constant)
    return model


def _halved(compiled: Any, quantized: Mapping[str, Any]) -> list[str]:
    """Quantized layers that were compiled in float16, which nobody asked for."""
    found = []
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        if "runtimePrecision" in facts and str(facts["runtimePrecision"].astype(str)) == _HALF:
            names = str(facts["originalLayersNames"].astype(str)).split(",")
            found += [name for name in names if name in quantized]
    return list(dict.fromkeys(found))


def _refused(model: Any, quantized: Mapping[str, Any], compile_model: Compile) -> list[str]:
    """Layers that do not compile even alone; of those that are alike one is tried."""
    tried: dict[str, bool] = {}
    for name, node in quantized.items():
        kind = _kind(node)
        if kind not in tried:
            tried[kind] = _is_refused(model, name, compile_model)
    return [name for name, node in quantized.items() if tried[_kind(node)]]


def _kind(node: Any) -> str:
    """What a layer's kernel depends on, as text."""
    shapes = [str(value.get_partial_shape()) for value in node.input_values()]
    return f"{node.get_type_name()} {shapes} {node.get_attributes()} {_reason(node)}"


def _is_refused(model: Any, name: str, compile_model: Compile) -> bool:
    """Whether a layer does not compile even alone, from what it reads to the next Q/DQ."""
    openvino = import_extra("openvino", extra="openvino")
    copy = model.clone()
    (layer,) = (each for each in copy.get_ordered_ops() if each.get_friendly_name() == name)
    begin = _behind(layer.input_value(0))
    if begin.get_node().get_type_name() == "Convert":  # to 8 bits, of what FakeQuantize rounded
        begin = begin.get_node().input_value(0).get_node().input_value(0)
    given = begin.get_node()
    if given.get_type_name() != "Parameter":
        given = openvino.opset13.parameter(begin.get_partial_shape(), begin.get_element_type())
        for reader in begin.get_target_inputs():
            reader.replace_source_output(given.output(0))
    try:
        compile_model(openvino.Model([_end(layer)], [given]))
    except RuntimeError:
        return True
    return False


def _end(layer: Any) -> Any:
    """The last node behind a layer that is its own: to the Q/DQ, or to where ways meet or part."""
    node, rounded = layer, False
    while True:
        readers = [each.get_node() for each in node.output(0).get_target_inputs()]
        readers = [each for each in readers if each.get_type_name() != "ShapeOf"]
        if len(readers) != 1:
            return node
        (reader,) = readers
        if rounded and reader.get_type_name() not in _DEQUANTIZE:
            return node
        others = [v.get_node() for v in reader.input_values() if v.get_node() is not node]
        if reader.get_type_name() == "Result" or len(others) != len(reader.input_values()) - 1:
            return node
        if any(not _is_constant(other) for other in others):
            return node
        rounded |= reader.get_type_name() == "FakeQuantize"
        node = reader


def _is_constant(node: Any) -> bool:
    """Whether nothing that is fed in has a part in a value; its shape may."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each.get_type_name() == "Parameter":
            return False
        if each.get_type_name() != "ShapeOf":
            waiting.extend(value.get_node() for value in each.input_values())
    return True


def _reason(node: Any) -> str:
    """Why a layer runs in float, with the zero point of its input where that is not 0."""
    reason = "OpenVINO has no kernel for its INT8 form on this CPU"
    shift = node.input_value(0).get_node()
    while shift.get_type_name() in ("Multiply", "Convert"):
        shift = shift.input_value(0).get_node()
    if shift.get_type_name() != "Subtract":
        return reason
    point = _behind(shift.input_value(1)).get_node()
    if point.get_type_name() != "Constant" or not (values := set(point.data.ravel().tolist())):
        return reason
    told = ", ".join(str(int(value)) for value in sorted(values))
    return reason if values == {0} else f"{reason}: the zero point of its input is {told}"
