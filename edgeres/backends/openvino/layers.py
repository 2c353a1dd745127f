"""The layers of an OpenVINO engine, from the compiled model and the profile of its inferences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeres.backends.base import LayerInfo
from edgeres.backends.openvino.ir import AUTO_NAME, one_line_of
from edgeres.backends.openvino.kernels import PRODUCTS as _MULTIPLY
from edgeres.errors import BackendMissingError

if TYPE_CHECKING:
    from edgeres.backends.openvino.run import OpenVinoRunner

WARM_UP, RUNS = 2, 10
_DATA = frozenset({"Input", "Output"})
_NOT_NODES = frozenset({"Constant", "Parameter", "Result"})
_FACTORS = frozenset({"Multiply", "Divide"})
_PRODUCTS = frozenset({"MatMul", "FullyConnected"})
_PRIMITIVES = frozenset({"Convolution", "FullyConnected", "MatMul"})  # of INT8 layers, as run
_PRECISIONS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "int8", "i8": "int8"}
# The importer splits an ONNX node into an operation and its bias or scale, named after it.
_SCALES = ("/DequantizationMultiply", "/DequantizationSubtract")
_PARTS = ("/WithoutBiases", *_SCALES)


def profiled_layers(model: Any, runner: OpenVinoRunner) -> list[LayerInfo]:
    """Runs an engine a few times and lists its primitives in the order in which they run.

    Args:
        model: The engine's IR (``openvino.Model``), whose names tell ONNX nodes from others.
        runner: A runner of it that was loaded with ``PERF_COUNT``.

    Raises:
        BackendMissingError: The device does not tell what it runs.
        ModelError: An input has a dynamic size apart from the batch.
    """
    known = {
        _plain(operation.get_friendly_name())
        for operation in model.get_ops()
        if operation.get_type_name() not in _NOT_NODES
        and not operation.get_friendly_name().startswith(AUTO_NAME)
    }
    times = _times_ms(runner)
    weights, scaled = _layers_by_constant(model), _scaled_products(model)
    primitives = [
        (operation.get_friendly_name(), _facts(operation) | _weights(operation, weights))
        for operation in _runtime_model(runner).get_ordered_ops()
    ]
    primitives.sort(key=lambda item: int(item[1]["execOrder"]))
    return [
        LayerInfo(
            name=name,
            op=facts["layerType"],
            precision=_PRECISIONS.get(facts["runtimePrecision"], facts["runtimePrecision"]),
            nodes=_nodes(facts, known, scaled) or tuple(filter(None, [facts["layer"]])),
            time_ms=times[name],
            reason=_reason(facts, runner.in_float),
        )
        for name, facts in primitives
        # What is not profiled was computed once on loading: weights, biases, their shapes.
        if name in times and facts["layerType"] not in _DATA
    ]


def _runtime_model(runner: OpenVinoRunner) -> Any:
    """The compiled model as the device itself tells it."""
    try:
        return runner.compiled.get_runtime_model()
    except RuntimeError as error:
        raise BackendMissingError(
            f"OpenVINO does not tell which layers {runner.device.ours} runs: {one_line_of(error)}.",
            hint="INT8 cannot be proven on it; `edgeres inspect` an engine for cpu.",
        ) from error


def _nodes(
    facts: dict[str, str], known: set[str], scaled: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """The ONNX nodes that a primitive computes: none where it only puts scale or zero point right.

    What an INT8 layer gives may be brought to its scale by an ``Eltwise`` of its own, or by one
    that computes something else as well. A product of two images may go by the name of the factor
    behind it, which the scale took in.
    """
    names = facts["originalLayersNames"].split(",")
    if facts["layerType"] == "Eltwise":
        names = [name for name in names if not name.endswith(_SCALES)]
    if facts["layerType"] in _PRODUCTS:
        names = [each for name in names for each in (*scaled.get(name, ()), name)]
    return tuple(dict.fromkeys(plain for plain in map(_plain, names) if plain in known))


def _reason(facts: dict[str, str], in_float: Mapping[str, str]) -> str:
    """Why a primitive computes in float; none where nothing stood in the way of INT8."""
    if facts["layerType"] not in _PRIMITIVES:
        return ""
    names = facts["originalLayersNames"].split(",")
    return next((in_float[name] for name in names if name in in_float), "")


def _times_ms(runner: OpenVinoRunner) -> dict[str, float]:
    """Mean time of each primitive, the first runs left out.

    OpenVINO reports the mean of all runs so far; the first ones make kernels and pack weights.
    """
    means: list[dict[str, float]] = []
    for run in range(1, RUNS + 1):
        records = runner.profile()
        if run in (WARM_UP, RUNS):
            means.append({r.node_name: r.real_time.total_seconds() * 1000 for r in records})
    early, all_runs = means
    return {
        name: max(0.0, (mean * RUNS - early.get(name, 0.0) * WARM_UP) / (RUNS - WARM_UP))
        for name, mean in all_runs.items()
    }


def _plain(name: str) -> str:
    """A name without what was put behind it, however often and in whatever order."""
    part = next((part for part in _PARTS if name.endswith(part)), None)
    return name if part is None else _plain(name.removesuffix(part))


def _layers_by_constant(model: Any) -> dict[str, str]:
    """The layer that multiplies with a constant, by the constant's name; none for a shared one."""
    found: dict[str, set[str]] = {}
    for operation in model.get_ops():
        if operation.get_type_name() in _MULTIPLY:
            for name in _constants_behind(operation.input_value(1)):
                found.setdefault(name, set()).add(_plain(operation.get_friendly_name()))
    return {name: layers.pop() for name, layers in found.items() if len(layers) == 1}


def _scaled_products(model: Any) -> dict[str, tuple[str, ...]]:
    """The products of two images that factors follow, by the factors' names."""
    found: dict[str, tuple[str, ...]] = {}
    for operation in model.get_ops():
        if operation.get_type_name() != "MatMul" or _constants_behind(operation.input_value(1)):
            continue
        product, node = _plain(operation.get_friendly_name()), operation
        while len(readers := node.output(0).get_target_inputs()) == 1:
            node = readers.pop().get_node()
            if node.get_type_name() not in _FACTORS:
                break
            found[node.get_friendly_name()] = (product,)
    return found


def _constants_behind(weights: Any) -> set[str]:
    """Names of the constants that weights are made of; none where an image has a part in them."""
    seen: set[str] = set()
    constants: set[str] = set()
    waiting = [weights.get_node()]
    while waiting:
        node = waiting.pop()
        if node.get_name() in seen:  # each residual block doubles the number of paths
            continue
        seen.add(node.get_name())
        if node.get_type_name() == "Parameter":
            return set()
        if node.get_type_name() == "Constant":
            constants.add(node.get_friendly_name())
        waiting.extend(value.get_node() for value in node.input_values())
    return constants


def _weights(operation: Any, layers: dict[str, str]) -> dict[str, str]:
    """The layer whose weights a primitive reads.

    Optimizations may leave a convolution with no name of the ONNX file: a scale that moved behind
    it, into an operation that was then fused, took the name along.
    """
    if len(values := operation.input_values()) < 2:
        return {"layer": ""}
    return {"layer": layers.get(values[1].get_node().get_friendly_name(), "")}


def _facts(operation: Any) -> dict[str, str]:
    """What the compiled model says about a primitive, as text."""
    facts = operation.get_rt_info()
    keys = ("layerType", "runtimePrecision", "originalLayersNames", "execOrder")
    told = {key: str(facts[key].astype(str)) if key in facts else "0" for key in keys}
    if told["layerType"] == "Eltwise":  # its own word is the type of one input
        types = [operation.get_input_element_type(at) for at in range(operation.get_input_size())]
        floats = [each.get_type_name() for each in types if each.is_real()]
        told["runtimePrecision"] = next(iter(floats), told["runtimePrecision"])
    return told
