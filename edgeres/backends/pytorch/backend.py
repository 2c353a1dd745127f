"""PyTorch as the reference: the checkpoint itself, run in eager FP32.

It answers what the network gave before any export, so it builds from a checkpoint
(``.safetensors``, ``.pt``) and not from ONNX: an ONNX interpreter in torch would be one more thing
to doubt. There is nothing to quantize and no INT8 here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeres.backends._packaged import Package, PackagedBackend
from edgeres.backends._runner import CheckedRunner
from edgeres.backends.base import Array, BuildConfig, Engine, LayerInfo, QdqRules
from edgeres.backends.sidecar import check_engine, staged, write_sidecar
from edgeres.errors import ArtefactError, BackendMissingError, ModelError, StageError, one_line
from edgeres.graph.summary import TensorSpec
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback

_NAME = "pytorch"
_TORCH = Package("torch")


class PyTorchRunner(CheckedRunner):
    """A module in evaluation mode on one device."""

    def __init__(
        self, module: Any, shape: tuple[int | None, ...], classes: int, device: str
    ) -> None:
        super().__init__(
            (TensorSpec("input", shape, "float32"),),
            (TensorSpec("logits", (None, classes), "float32"),),
        )
        self._module = module
        self._device = device

    def _infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        torch = _TORCH.load()
        images = feeds["input"]
        try:
            with torch.inference_mode(), _float32(torch):
                logits = self._module(torch.tensor(images, device=self._device))
                return {"logits": logits.cpu().numpy()}
        except RuntimeError as error:
            raise StageError(
                f"PyTorch failed on input {images.shape}: {one_line(error)}.",
                hint="A smaller batch needs less memory; a small image may not survive pooling.",
            ) from error

    def _close(self) -> None:
        self._module = None


class PyTorch(PackagedBackend):
    """The reference backend; see :class:`edgeres.backends.base.Backend`."""

    name = _NAME
    engine_suffix = ".safetensors"
    package = _TORCH

    def devices(self) -> tuple[str, ...]:
        """GPUs as ``cuda:N``, then ``cpu``."""
        return (*(f"cuda:{n}" for n in range(_TORCH.load().cuda.device_count())), "cpu")

    def qdq_rules(self, device: str = "cpu", options: Mapping[str, str] | None = None) -> QdqRules:
        """Nothing is quantized: this is the FP32 reference."""
        self.check_device(device)
        return QdqRules(
            name="pytorch", activation_dtype="uint8", activation_symmetric=False, ops=frozenset()
        )

    def check_device(self, device: str) -> None:
        """Refuses a device that torch does not see here.

        Raises:
            BackendMissingError: Torch or the device is not here.
        """
        kind, _, index = device.partition(":")
        present = _TORCH.load().cuda.device_count()
        if device != "cpu" and not (kind == "cuda" and index.isdigit() and int(index) < present):
            raise BackendMissingError(
                f"torch cannot use the device {device!r} here; it sees {present} GPU.",
                hint="Use --device cpu.",
            )

    def build(
        self,
        onnx: Path,
        out: Path,
        config: BuildConfig,
        *,
        progress: ProgressCallback | None = None,
    ) -> Engine:
        """Stores a checkpoint in edgeres's own form, which needs no pickle to load.

        Args:
            onnx: For this backend a checkpoint: ``.safetensors``, ``.pt`` or ``.pth``.
            out: Where the engine goes; its sidecar goes beside it.
            config: Device and threads; there are no options.
            progress: Not called: one step.

        Raises:
            BackendMissingError: Torch or the device is not here.
            ModelError: An ONNX file, or a checkpoint that does not load.
            StorageError: The engine cannot be written.
            UsageError: Any option at all.
        """
        self.check(config)
        if onnx.suffix == ".onnx":
            raise ModelError(
                f"{onnx}: the pytorch reference is built from a checkpoint, not from ONNX.",
                hint="Give the .safetensors or .pt file that the ONNX file was exported from.",
            )
        from edgeres.models.checkpoint import load_checkpoint, load_module, save_checkpoint

        checkpoint = load_checkpoint(onnx)
        load_module(checkpoint)
        with staged(out) as folder:
            save_checkpoint(folder / out.name, checkpoint)
        engine = Engine(out, _NAME, config.device, file_sha256(onnx), self.versions())
        write_sidecar(engine)
        return engine

    def load(self, engine: Engine, config: BuildConfig) -> PyTorchRunner:
        """Builds the network and loads its weights.

        ``config.threads`` sets torch's threads for the whole process: torch has no others.

        Raises:
            ArtefactError: The file is damaged, or no engine of this backend.
            BackendMissingError: Torch or the device is not here.
            UsageError: Any option at all.
        """
        self.check(config)
        plan, module = _open(engine)
        if config.threads is not None:
            _TORCH.load().set_num_threads(config.threads)
        size = (None,) if plan.spec.over_lines else (None, None)
        shape = (None, plan.in_channels, *size)
        return PyTorchRunner(module.to(config.device), shape, plan.num_classes, config.device)

    def layers(self, engine: Engine) -> list[LayerInfo]:
        """Lists the modules that compute, with the precision of their weights.

        Raises:
            ArtefactError: The file is damaged, or no engine of this backend.
            BackendMissingError: Torch is not here.
        """
        _TORCH.load()
        _, module = _open(engine)
        return [
            LayerInfo(name, type(part).__name__, _precision(part))
            for name, part in module.named_modules()
            if not any(part.children())
        ]


@contextmanager
def _float32(torch: Any) -> Iterator[None]:
    """Products of float32 that are float32: of itself torch convolves in TF32 on a GPU."""
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, matmul.allow_tf32
    conv.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        conv.allow_tf32, matmul.allow_tf32 = before


def _open(engine: Engine) -> tuple[Any, Any]:
    """Channel plan and module of an engine."""
    from edgeres.models.checkpoint import load_checkpoint, load_module
    from edgeres.models.resnet import with_lines

    check_engine(engine, _NAME)
    try:
        checkpoint = load_checkpoint(engine.path)
        return checkpoint.plan, with_lines(load_module(checkpoint))
    except ModelError as error:
        raise ArtefactError(
            f"{engine.path}: expected a checkpoint: {error.message}", hint="Build it again."
        ) from error


def _precision(part: Any) -> str:
    parameter = next(part.parameters(), None)
    return "float32" if parameter is None else str(parameter.dtype).removeprefix("torch.")


BACKEND = PyTorch()
