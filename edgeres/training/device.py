"""Where and in which precision a training computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from edgeres.errors import BackendMissingError
from edgeres.recipe.training import Training


@dataclass(frozen=True)
class TorchDevice:
    """A device and the type that convolutions compute in there."""

    device: torch.device
    dtype: torch.dtype

    @property
    def mixed(self) -> bool:
        """Whether forward passes run under autocast."""
        return self.dtype != torch.float32

    def autocast(self) -> torch.autocast:
        """Context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.mixed)

    def scaler(self) -> torch.amp.GradScaler:
        """Gradient scaler; it does nothing unless the type is float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def choose_device(settings: Training) -> TorchDevice:
    """Resolves ``auto``.

    Float32 on a CPU: bfloat16 autocast was slower for a ResNet-20 step even on a CPU with
    AVX512-BF16 (``benchmarks/training_step.py``). On a GPU bfloat16 where its arithmetic units
    have it, else float16.

    Raises:
        BackendMissingError: CUDA was asked for and is not here.
    """
    name = settings.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendMissingError(
            f"Device '{name}' is not here ({torch.cuda.device_count()} CUDA devices found).",
            hint="Use --device cpu, or install a driver and a CUDA build of torch.",
        )
    if settings.precision != "auto":
        return TorchDevice(device, getattr(torch, settings.precision))
    if device.type != "cuda":
        return TorchDevice(device, torch.float32)
    modern = torch.cuda.get_device_capability(device) >= (8, 0)
    return TorchDevice(device, torch.bfloat16 if modern else torch.float16)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Runs a block with this many CPU threads and restores the old number."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
