"""A torch module that a program hands over: it is written as ONNX in that program's own process."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from edgeres.errors import ModelError, UsageError, one_line
from edgeres.modules.bring import BroughtModule, sample_shape
from edgeres.modules.opened import as_opened
from edgeres.modules.to_onnx import write_onnx


def write_handed(
    module: object,
    out: Path,
    *,
    said: dict[str, Any],
    image: tuple[int, int],
    input_size: tuple[int, int] | None = None,
    every: bool = False,
) -> BroughtModule:
    """Writes a module as an ONNX file that answers alike; the module itself stays as it is.

    Args:
        module: Takes a batch ``(N, C, H, W) float32``.
        out: The file.
        said: Fields of the preprocessing that a person gave; they hold over those that travel with
            the network.
        image: Height and width of an image before preprocessing.
        input_size: Height and width that the network takes, where a person says them.
        every: Whether all tensors that it returns are outputs; else the class scores alone.

    Raises:
        UsageError: It is no module.
        ModelError: The module cannot be copied, does not run, or cannot be exported.
        GateError: The ONNX file answers otherwise than the module.
    """
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"Expected a recipe or a torch.nn.Module, got {type(module).__name__}.",
            hint="Load a recipe with edgeres.load_recipe, or hand over the network itself.",
        )
    shown = type(module).__name__
    try:
        own = copy.deepcopy(_plain(module))
    except Exception as error:  # anybody's __deepcopy__; torch refuses tensors that are computed
        raise ModelError(
            f"{shown} cannot be copied: {type(error).__name__}: {one_line(error)}.",
            hint="Hand over a module whose parameters and buffers are plain tensors.",
        ) from error
    opened = as_opened(own, shown)
    sample = sample_shape(opened, shown, said=said, image=image, input_size=input_size)
    scripted = isinstance(opened.module, torch.jit.ScriptModule)
    told = write_onnx(opened.module, sample, out, scripted=scripted, every=every)
    return BroughtModule(opened.layout, sample, opened.preprocess, (*opened.notes, *told))


def _plain(module: torch.nn.Module) -> torch.nn.Module:
    """The network inside what trains it on several devices, or compiles it."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, torch.nn.Module):
            return module
        module = inner
