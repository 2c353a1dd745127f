"""Brings a network that comes as a torch module to ONNX, in a child process under a time limit.

The child runs code that is not edgeres' own: it may raise, print, hang or end, and the parent says
so in one line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.modules.spec import ModuleSpec
from edgeres.system.child import JsonValue, run_limited

if TYPE_CHECKING:
    from edgeres.modules.opened import OpenedModule

SECONDS = 900.0


@dataclass(frozen=True)
class BroughtModule:
    """A module that was written as ONNX.

    Attributes:
        layout: Of its input.
        sample_shape: Shape of one sample, as it is fed.
        preprocess: As it travelled with the network.
        notes: What a person should know.
    """

    layout: Literal["nchw", "nhwc"]
    sample_shape: tuple[int, int, int]
    preprocess: Preprocess | None
    notes: tuple[str, ...]


def bring_module(
    spec: ModuleSpec,
    out: Path,
    *,
    said: dict[str, Any],
    image: tuple[int, int],
    input_size: tuple[int, int] | None = None,
    every: bool = False,
    seconds: float = SECONDS,
) -> BroughtModule:
    """Writes a module as an ONNX file that answers alike.

    Args:
        spec: What it is made from.
        out: The file.
        said: Fields of the preprocessing that a person gave; they hold over those that travel with
            the network.
        image: Height and width of an image before preprocessing.
        input_size: Height and width that the network takes, where a person says them.
        every: Whether all tensors that it returns are outputs; else the class scores alone.
        seconds: Time limit.

    Raises:
        ModelError: The module cannot be made, or cannot be exported.
        GateError: The ONNX file answers otherwise than the module.
        StageError: The time limit was hit, or the child crashed.
        BackendMissingError: A package that it needs is not installed.
    """
    run = run_limited(write_module, seconds=seconds, memory_bytes=None, what=spec.shown)
    told = run(spec, out, said=said, image=image, input_size=input_size, every=every)
    travelled: Any = told["preprocess"]
    sample: Any = told["sample_shape"]
    notes: Any = told["notes"]
    return BroughtModule(
        layout="nhwc" if told["layout"] == "nhwc" else "nchw",
        sample_shape=tuple(sample),
        preprocess=None if travelled is None else Preprocess.from_dict(travelled),
        notes=tuple(notes),
    )


def write_module(
    spec: ModuleSpec,
    out: Path,
    *,
    said: dict[str, Any],
    image: tuple[int, int],
    input_size: tuple[int, int] | None,
    every: bool = False,
) -> dict[str, JsonValue]:
    """What the child of :func:`bring_module` does."""
    from edgeres.modules.opened import open_module
    from edgeres.modules.to_onnx import write_onnx

    opened = open_module(spec)
    sample = sample_shape(opened, spec.shown, said=said, image=image, input_size=input_size)
    told = write_onnx(opened.module, sample, out, scripted=opened.scripted, every=every)
    notes = [*opened.notes, *told]
    travelled: Any = None if opened.preprocess is None else opened.preprocess.to_dict()
    return {
        "layout": opened.layout,
        "sample_shape": list(sample),
        "preprocess": travelled,
        "notes": list(notes),
    }


def sample_shape(
    opened: OpenedModule,
    shown: str,
    *,
    said: dict[str, Any],
    image: tuple[int, int],
    input_size: tuple[int, int] | None,
) -> tuple[int, int, int]:
    """One sample in the network's layout: sizes that it says itself, then those that are said.

    Args:
        opened: The network.
        shown: As a person names it.
        said: Fields of the preprocessing that a person gave.
        image: Height and width of an image before preprocessing.
        input_size: Height and width that the network takes, where a person says them.

    Raises:
        ModelError: The network takes another size than the person says.
    """
    base = opened.preprocess or Preprocess(channels=int(said.get("channels") or 3))
    size = Preprocess.from_dict({**base.to_dict(), **said}).output_size(*image)
    place = 0 if opened.layout == "nchw" else 2
    sizes = list(opened.sample)
    channels = sizes.pop(place)
    height, width = input_size or tuple(
        fixed if fixed is not None else seen for fixed, seen in zip(sizes, size, strict=True)
    )
    if any(f not in (None, g) for f, g in zip(sizes, (height, width), strict=True)):
        raise ModelError(
            f"{shown} takes images of {sizes[0]}x{sizes[1]}, not of {height}x{width}.",
            hint="Leave --input-size out.",
        )
    filled = [height, width]
    filled.insert(place, channels if channels is not None else base.channels)
    return filled[0], filled[1], filled[2]
