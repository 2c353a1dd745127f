"""NVIDIA Triton Inference Server: ``MODEL/config.pbtxt`` and ``MODEL/1/`` with the engine.

Field names are those of ``ModelConfig`` in Triton's ``model_config.proto``; the file names are the
defaults of its backends, so that no path needs to be said.
"""

from __future__ import annotations

from pathlib import Path

from edgeres.backends.base import Engine
from edgeres.backends.serving._model import ServedModel
from edgeres.graph.summary import TensorSpec

MAX_BATCH = 64
"""Largest batch that Triton may form where the engine has no limit of its own."""

_FILES = {
    "onnxruntime": (".onnx",),
    "openvino": (".xml", ".bin"),
    "tensorrt": (".plan",),
}
_LABELS = "labels.txt"
_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}


class Triton:
    """See :class:`edgeres.backends.serving.Server`."""

    def refusal(self, engine: Engine) -> str | None:
        """Triton has no backend for TensorRT for RTX, nor for what is not an engine maker."""
        if engine.backend not in _FILES:
            return f"Triton has no backend for {engine.backend}."
        if engine.versions.get("flavor") == "tensorrt_rtx":
            return "Triton runs plans of TensorRT, not of TensorRT for RTX."
        smallest = max((shape.min[0] for shape in engine.shapes.values()), default=1)
        fixed = all(shape.min[0] == shape.max[0] for shape in engine.shapes.values())
        if smallest > 1 and not fixed:
            return f"Triton also sends single images, the engine takes {smallest} and more."
        return None

    def write(self, models: list[ServedModel], folder: Path) -> None:
        """Writes one folder for each model."""
        for model in models:
            place = folder / model.name
            model.copy_into(place / "1", _FILES[model.engine.backend])
            (place / "config.pbtxt").write_text(_config(model), encoding="utf-8")
            if model.classifies:
                labels = "".join(f"{name}\n" for name in model.class_names)
                (place / _LABELS).write_text(labels, encoding="utf-8")


def _config(model: ServedModel) -> str:
    """The model's configuration in protobuf text format."""
    free = model.free_batch
    largest = min((shape.max[0] for shape in model.engine.shapes.values()), default=MAX_BATCH)
    kind = "KIND_CPU" if model.engine.device == "cpu" else "KIND_GPU"
    labels = f"    label_filename: {_quoted(_LABELS)}\n" if model.classifies else ""
    outputs = ",\n".join(f"  {{\n{_tensor(spec, free)}{labels}  }}" for spec in model.outputs)
    blocks = [
        f"name: {_quoted(model.name)}",
        f"backend: {_quoted(model.engine.backend)}",
        f"max_batch_size: {largest if free else 0}",
        f"input [\n  {{\n{_tensor(model.input, free)}  }}\n]",
        f"output [\n{outputs}\n]",
        f"instance_group [\n  {{\n    count: 1\n    kind: {kind}\n{_profiles(model)}  }}\n]",
    ]
    if free:
        blocks.append("dynamic_batching {\n}")
    return _container(model.engine) + "\n".join(blocks) + "\n"


def _container(engine: Engine) -> str:
    """Which container runs a plan: the one with the very TensorRT that built it."""
    version = engine.versions.get("tensorrt")
    if engine.backend != "tensorrt" or version is None:
        return ""
    release = ".".join(version.split(".")[:3])
    return (
        f"# Needs a container nvcr.io/nvidia/tritonserver:YY.MM-py3 with TensorRT {release}.\n"
        "# NVIDIA's Frameworks Support Matrix names it; in a container,\n"
        "# `find / -name 'libnvinfer.so.*'` shows the version.\n"
    )


def _profiles(model: ServedModel) -> str:
    """The profiles of an engine that has several: of itself Triton takes the first alone."""
    batches = model.engine.versions.get("opt_batch", "").split(",")
    if len(batches) < 2:
        return ""
    return f"    profile: [ {', '.join(_quoted(str(number)) for number in range(len(batches)))} ]\n"


def _tensor(spec: TensorSpec, free: bool) -> str:
    # With a batch size over 0 Triton puts the batch in front of dims by itself.
    sizes = spec.shape[1:] if free else spec.shape
    dims = ", ".join(str(size) for size in sizes)
    return (
        f"    name: {_quoted(spec.name)}\n"
        f"    data_type: {_TYPES[spec.dtype]}\n"
        f"    dims: [ {dims} ]\n"
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


SERVER = Triton()
