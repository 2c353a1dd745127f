"""The deep learning accelerator (DLA) of Jetson Orin: what may go there, and what does.

Rules from NVIDIA's "Working with DLA" of TensorRT 8.6, 10 and 11.4.1: a DLA computes in FP16 and
INT8 and takes no dynamic sizes; before TensorRT 11 it takes INT8 only from a calibrator or from
dynamic ranges, never from Q/DQ; from 11 on the types in the graph decide. Not yet run on a DLA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeres.backends.base import ShapeRange
from edgeres.backends.tensorrt.api import Trt, has_precision_flags
from edgeres.backends.tensorrt.graph import Graph
from edgeres.errors import BackendMissingError, ModelError, UsageError

_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=$|\[|\x1f|\s)")
_MOST_NAMED = 8


def refuse_for_dla(trt: Trt, graph: Graph, onnx: Path) -> None:
    """Refuses a Q/DQ file where this TensorRT's DLA takes INT8 in another way.

    Raises:
        ModelError: It is one.
    """
    if has_precision_flags(trt) and graph.is_quantized:
        raise ModelError(
            f"{onnx}: {trt.title} takes no Q/DQ on a DLA: they would run on the GPU.",
            hint="For INT8 there, `edgeres bundle DIR --serve trtexec` writes build_implicit.sh, "
            "which takes the scales from a calibration cache. Or give the float model, which the "
            "DLA runs in FP16, or leave dla_core out; TensorRT 11.4.1 and later take Q/DQ.",
        )


def refuse_ranges(shapes: Mapping[str, ShapeRange]) -> None:
    """Refuses a range of shapes: a DLA runs the sizes that it was built for and no others.

    Raises:
        UsageError: The smallest, usual and largest shape of an input differ.
    """
    for name, sizes in shapes.items():
        if not sizes.min == sizes.opt == sizes.max:
            raise UsageError(
                f"the shapes of input {name!r} range from {sizes.min} to {sizes.max}; a DLA takes "
                "no dynamic sizes.",
                hint="Give one shape three times, or leave dla_core out.",
            )


def use_dla(trt: Trt, builder: Any, network: Any, builder_config: Any, core: int) -> str:
    """Lets a DLA core run all that it can and the GPU the rest.

    Returns:
        How many of the ONNX nodes the DLA takes and which ones it does not, in one line.

    Raises:
        BackendMissingError: There is no such core.
        ModelError: It takes none of the nodes.
    """
    module = trt.module
    if core >= builder.num_DLA_cores:
        raise BackendMissingError(
            f"dla_core={core}: {trt.title} sees {builder.num_DLA_cores} DLA cores here.",
            hint="DLA is on Jetson Orin, with TensorRT 10 up to 10.7 or 11.4.1 and later.",
        )
    builder_config.default_device_type = module.DeviceType.DLA
    builder_config.DLA_core = core
    builder_config.set_flag(module.BuilderFlag.GPU_FALLBACK)
    takes: dict[str, bool] = {}
    for index in range(network.num_layers):
        network_layer = network.get_layer(index)
        if network_layer.num_inputs == 0:  # a constant
            continue
        able = bool(builder_config.can_run_on_DLA(network_layer))
        for node in _NODE.findall(network_layer.metadata or "") or [network_layer.name]:
            takes[node] = takes.get(node, True) and able
    left = [node for node, able in takes.items() if not able]
    if len(left) == len(takes):
        raise ModelError(
            f"DLA core {core} can run none of the {len(takes)} nodes.", hint="Leave dla_core out."
        )
    text = f"DLA core {core} can run {len(takes) - len(left)} of {len(takes)} nodes"
    if not left:
        return f"{text}."
    more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
    return f"{text}; on the GPU: {', '.join(left[:_MOST_NAMED])}{more}."
