"""Reads a whole Keras model (``.keras``, ``.h5``) as a torch module: Keras 3 on its torch backend.

No TensorFlow is needed. Called in a child process only: a model file may hold code, which Keras
refuses to run (``safe_mode``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from edgeres.errors import ModelError, one_line
from edgeres.system.extras import import_extra


class KerasNetwork(torch.nn.Module):
    """A Keras model in inference mode; takes images as the model does, mostly channels last."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> Any:
        """Maps ``(N, H, W, C) float32`` (or channels first) to the model's outputs."""
        return self.model(images, training=False)


def keras_network(path: Path) -> tuple[torch.nn.Module, tuple[int | None, ...]]:
    """Loads a Keras file.

    Returns:
        The network, and the shape of one sample; ``None`` for what the model leaves open.

    Raises:
        ModelError: Keras cannot load it, or it takes several inputs.
        BackendMissingError: Keras is not installed.
    """
    os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Keras would put the network onto a GPU
    keras = import_extra("keras", user="reading a Keras model")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # whatever its layers and readers raise
        text = one_line(error)
        unsafe = "safe_mode" in text or "unsafe" in text or "Lambda" in text
        raise ModelError(
            f"Keras cannot load {path.name}: {text}.",
            hint="It holds Python code: load it in Python that you trust and give it as "
            "FILE.py:FUNCTION."
            if unsafe
            else "Save the whole model with model.save('net.keras') of Keras 3; layers of your own "
            "need FILE.py:FUNCTION.",
        ) from error
    shape = getattr(model, "input_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ModelError(
            f"Expected one image input of 4 dimensions in {path.name}, got {shape!r}.",
            hint="Save the network with its image as the only input.",
        )
    return KerasNetwork(model), shape[1:]
