"""NVIDIA DeepStream: ``MODEL/config_infer.txt`` for Gst-nvinfer, with labels and what it runs.

Gst-nvinfer gives a network ``net-scale-factor * (pixel - offsets[c])`` and takes probabilities from
it (Gst-nvinfer in the DeepStream documentation; keys as ``gstnvinfer_property_parser.h`` has them,
which ``tests/backends/nvinfer_keys.txt`` lists). So a standard deviation for each channel goes into
the graph, as a Mul at its start, and a Softmax stands at the end of a network that gives logits.
The plan is then another one than the one that was proven: ``MODEL/build.sh`` builds it there.

Labels are one line with semicolons between them: a line of the file is one output layer
(``NvDsInferContextImpl::parseLabelsFile``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeres.backends.base import Engine
from edgeres.backends.serving._model import ServedModel
from edgeres.backends.serving._nvidia import (
    PLAN,
    build_script,
    qdq_file,
    write_models,
    write_script,
)
from edgeres.backends.tensorrt.graph import (
    Graph,
    free_name,
    index_graph,
    read_graph,
    taken_names,
)
from edgeres.backends.tensorrt.repair import repair
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError

CONFIG, LABELS = "config_infer.txt", "labels.txt"
_FORMATS = {"rgb": 0, "bgr": 1}
_GREY = 2
_COLOURS = 3
_ORDERS = {"nchw": 0, "nhwc": 1}
_THRESHOLD = 0.5
_CLASSIFIER, _OTHER = 1, 100
"""Network types of Gst-nvinfer; of another one than it knows it hands the tensors on."""


class DeepStream:
    """See :class:`edgeres.backends.serving.Server`."""

    def refusal(self, engine: Engine) -> str | None:
        """Gst-nvinfer runs plans of TensorRT; it builds its own, so the flavor does not matter."""
        return None if engine.backend == "tensorrt" else "DeepStream runs engines of tensorrt only."

    def write(self, models: list[ServedModel], folder: Path) -> None:
        """Writes one folder for each model."""
        for model in models:
            place = folder / model.name
            (place / "1").mkdir(parents=True)
            preprocess = _fitting(model)
            qdq = qdq_file(model)
            graph, outputs = folded(repair(read_graph(qdq), qdq).graph, model, preprocess)
            write_models(graph, model, place / "1")
            write_script(place / "build.sh", build_script(model))
            text = _config(model, preprocess, outputs)
            (place / CONFIG).write_text(text, encoding="utf-8", newline="\n")
            if not model.classifies:
                continue
            labels = ";".join(
                name.replace(";", ",").replace("\n", " ") for name in model.class_names
            )
            (place / LABELS).write_text(labels + "\n", encoding="utf-8", newline="\n")


def _fitting(model: ServedModel) -> Preprocess:
    """The preprocessing, if Gst-nvinfer can do it.

    Raises:
        ModelError: It is not known, or is not for images that are grey or colour.
    """
    preprocess = model.preprocess
    images = preprocess is not None and not preprocess.features and preprocess.log_mel is None
    if preprocess is None or not images or preprocess.channels not in (1, _COLOURS):
        what = "is not known" if preprocess is None else f"has {preprocess.channels} channels"
        what = what if images or preprocess is None else "is for no images"
        raise ModelError(
            f"{model.name}: its preprocessing {what}; Gst-nvinfer feeds grey or colour images.",
            hint="Feed it from your own code, with Gst-nvdspreprocess.",
        )
    return preprocess


def folded(
    graph: Graph, model: ServedModel, preprocess: Preprocess
) -> tuple[Graph, tuple[str, ...]]:
    """The graph with what Gst-nvinfer cannot do, and the names of its outputs.

    Args:
        graph: The Q/DQ graph.
        model: Names input and output.
        preprocess: Its standard deviations; those that are equal are no business of the graph's.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.model)
    taken = taken_names(proto)
    for value in proto.graph.input:
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8:
            # Gst-nvinfer gives floats, whatever they hold; the Cast behind the input stays.
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    nodes = list(proto.graph.node)
    first, last = [], []
    std = np.asarray(preprocess.std, np.float32)
    if np.unique(std).size > 1:
        shape = (1, -1, 1, 1) if preprocess.layout == "nchw" else (1, 1, 1, -1)
        factors = (std[0] / std).astype(np.float32).reshape(shape)
        name, scaled = free_name("std_factors", taken), free_name("std_scaled", taken)
        for node in nodes:
            node.input[:] = [
                scaled if tensor == model.input.name else tensor for tensor in node.input
            ]
        proto.graph.initializer.append(numpy_helper.from_array(factors, name))
        node_name = free_name("std_factors_mul", taken)
        first.append(helper.make_node("Mul", [model.input.name, name], [scaled], node_name))
    names = tuple(spec.name for spec in model.outputs)
    producer = graph.producers.get(names[0])
    if model.classifies and (producer is None or producer.op_type != "Softmax"):
        (output,) = names
        probabilities = free_name("probabilities", taken)
        node_name = free_name("probabilities_softmax", taken)
        last.append(helper.make_node("Softmax", [output], [probabilities], node_name, axis=-1))
        value = next(item for item in proto.graph.output if item.name == output)
        value.name = probabilities
        names = (probabilities,)
    del proto.graph.node[:]
    proto.graph.node.extend([*first, *nodes, *last])
    return index_graph(proto, Path(model.name)), names


def _config(model: ServedModel, preprocess: Preprocess, outputs: tuple[str, ...]) -> str:
    """The configuration: nvinfer's own key file, with what is not the same said in comments."""
    scale, mean, std = preprocess.scale, preprocess.mean, preprocess.std
    means = mean * preprocess.channels if len(mean) == 1 else mean
    ranges = model.engine.shapes.get(model.input.name)
    batch = ranges.max[0] if ranges else model.input.shape[0] or 1
    sizes = list(model.input.shape[1:])
    if preprocess.layout == "nhwc":
        sizes = [sizes[2], sizes[0], sizes[1]]
    grey = preprocess.channels == 1
    steps = []
    if preprocess.resize is not None:
        steps.append(f"resized to {_size(preprocess.resize)} ({preprocess.interpolation})")
    if preprocess.crop is not None:
        steps.append(f"cropped to {_size(preprocess.crop)} from the centre")
    if preprocess.letterbox is not None:
        box = preprocess.letterbox
        box = (box, box) if isinstance(box, int) else box
        around = f"with {preprocess.letterbox_fill} around it, where nvinfer has 0"
        steps.append(f"fitted into {_size(box)} ({preprocess.interpolation}) {around}")
    proven = " and ".join(steps) or "fed as they are"
    keys = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": _CLASSIFIER if model.classifies else _OTHER,
        "network-mode": 1,
        "model-engine-file": f"1/{PLAN}",
        **({"labelfile-path": LABELS} if model.classifies else {"output-tensor-meta": 1}),
        "batch-size": batch,
        "infer-dims": ";".join(map(str, sizes)),
        "network-input-order": _ORDERS[preprocess.layout],
        "model-color-format": _GREY if grey else _FORMATS[preprocess.channel_order],
        "net-scale-factor": f"{scale / std[0]:.9g}",
        "offsets": ";".join(f"{each / scale:.9g}" for each in means),
        "maintain-aspect-ratio": int(preprocess.letterbox is not None),
        **({"symmetric-padding": 1} if preprocess.letterbox is not None else {}),
        "output-blob-names": ";".join(outputs),
        **({"classifier-threshold": _THRESHOLD} if model.classifies else {}),
    }
    head = [
        "# Gst-nvinfer. Run build.sh first: it makes 1/model.plan for this GPU.",
        f"# nvinfer scales a frame to the network's size; images were {proven}",
        "# where accuracy was measured. network-mode is not read where the plan is there.",
    ]
    return "\n".join([*head, "[property]", *(f"{key}={value}" for key, value in keys.items()), ""])


def _size(size: int | tuple[int, int]) -> str:
    return f"a shorter side of {size}" if isinstance(size, int) else f"{size[0]}x{size[1]}"


SERVER = DeepStream()
