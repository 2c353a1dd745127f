"""Opens any network that comes as a torch module, in the child process that will use it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError, one_line
from edgeres.models.beside import Said
from edgeres.models.preparation import told_preprocess
from edgeres.modules.factory import made_by_code
from edgeres.modules.fill import fill
from edgeres.modules.spec import ModuleSpec

_TOLD = ("pretrained_cfg", "default_cfg")


@dataclass(frozen=True)
class OpenedModule:
    """A network as a torch module, in evaluation mode, float32, on the CPU.

    Attributes:
        module: Takes a batch of images.
        layout: Of its input.
        sample: Shape of one sample, ``None`` for each size that it leaves open.
        preprocess: As it travels with the network (timm's ``pretrained_cfg``).
        notes: What a person should know.
        scripted: Whether its code is TorchScript, which torch's newer exporter does not take.
    """

    module: torch.nn.Module
    layout: Literal["nchw", "nhwc"]
    sample: tuple[int | None, int | None, int | None]
    preprocess: Preprocess | None = None
    notes: tuple[str, ...] = ()
    scripted: bool = False


def open_module(spec: ModuleSpec) -> OpenedModule:
    """Builds or loads the module and fills it with its weights.

    Raises:
        ModelError: It cannot be made or loaded.
        BackendMissingError: The library of its file is not installed.
    """
    if spec.kind == "keras":
        from edgeres.modules.keras_file import keras_network

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module, shape = keras_network(spec.path)
        layout: Literal["nchw", "nhwc"] = "nchw" if shape[0] in (1, 3, 4) else "nhwc"
        if shape[-1] in (1, 3, 4):
            layout = "nhwc"
        return OpenedModule(module.eval(), layout, (shape[0], shape[1], shape[2]))
    if spec.kind == "torchscript":
        return _scripted(spec)
    if spec.kind == "program":
        return _program(spec)
    module, notes = made_by_code(spec), list[str]()
    if spec.weights is not None:
        notes += fill(module, spec.weights, spec.shown)
    return as_opened(module, spec.shown, notes)


def as_opened(module: torch.nn.Module, shown: str, notes: Sequence[str] = ()) -> OpenedModule:
    """A module of anybody's code; it is changed in place.

    Args:
        module: Takes a batch ``(N, C, H, W)``.
        shown: As a person names it.
        notes: What a person should know already.
    """
    halves = {str(t.dtype)[6:] for t in module.parameters() if t.dtype != torch.float32}
    if halves:
        notes = [*notes, f"parameters of {', '.join(sorted(halves))} became float32."]
    module = module.float().cpu().eval()
    return OpenedModule(
        module, "nchw", (_channels(module), None, None), _travelled(module, shown), tuple(notes)
    )


def _scripted(spec: ModuleSpec) -> OpenedModule:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch has another format by now
            module = torch.jit.load(spec.path, map_location="cpu")  # type: ignore[no-untyped-call]
        module = module.float().eval()
    except Exception as error:  # torch's reader raises whatever the damage leads to
        raise ModelError(
            f"{spec.path.name} is no TorchScript that this torch can load: {one_line(error)}.",
            hint="Export the network to ONNX where it was made.",
        ) from error
    return OpenedModule(module, "nchw", (_channels(module), None, None), scripted=True)


def _program(spec: ModuleSpec) -> OpenedModule:
    try:
        program = torch.export.load(spec.path)
        module = program.module()
        for part in module.modules():
            part.training = False  # a program refuses eval(), and is as it was exported
        fed = [n for n in program.graph.nodes if n.op == "placeholder"]
        wanted = set(program.graph_signature.user_inputs)
        (image,) = [n.meta["val"] for n in fed if n.name in wanted]
    except Exception as error:  # torch's reader raises whatever the damage leads to
        raise ModelError(
            f"{spec.path.name} is no exported program of one image that this torch can load: "
            f"{one_line(error)}.",
            hint="Export the network to ONNX where it was made.",
        ) from error
    dims = [int(d) if isinstance(d, int) else None for d in image.shape[1:]]
    if len(dims) != 3:
        raise ModelError(
            f"Expected a program of images (N, C, H, W) in {spec.path.name}, got {image.shape}.",
            hint="Export the network with a batch of images as its only input.",
        )
    return OpenedModule(module, "nchw", (dims[0], dims[1], dims[2]))


def _channels(module: torch.nn.Module) -> int | None:
    """Channels of the first convolution."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if isinstance(part, torch.nn.Conv2d):
            return part.in_channels
        if isinstance(weight, torch.Tensor) and weight.dim() == 4:
            return int(weight.shape[1])
    return None


def _travelled(module: torch.nn.Module, shown: str) -> Preprocess | None:
    """The preprocessing that timm's networks carry."""
    values: dict[str, Any] = {}
    for name in _TOLD:
        config: Any = getattr(module, name, None)
        config = config.to_dict() if hasattr(config, "to_dict") else config
        if isinstance(config, Mapping) and config:
            values[name] = config
    return told_preprocess({}, (Said(shown, values),))
