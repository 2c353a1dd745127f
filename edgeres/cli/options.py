"""Options that several commands share, and the recipe keys that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Model = Annotated[
    str | None,
    typer.Option(help="Checkpoint (.safetensors, .pt), .onnx file, or architecture name."),
]
Weights = Annotated[Path | None, typer.Option(help="Checkpoint of a named architecture.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Images: fashion-mnist, imagefolder:PATH, idx:IMAGES,LABELS, npz:PATH or list:FILE."
    ),
]
CalibrationData = Annotated[
    str | None, typer.Option(help="Calibration images, where they differ from --data.")
]
TrainData = Annotated[str | None, typer.Option(help="Training images, for fine-tuning.")]
Device = Annotated[str, typer.Option(help="cpu or cuda:N.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
MaxDrop = Annotated[
    float | None, typer.Option(help="Largest allowed drop of top-1, in percentage points.")
]
Confidence = Annotated[
    float | None, typer.Option(help="One-sided confidence of the bound on the drop, e.g. 0.95.")
]
Scale = Annotated[float | None, typer.Option(help="Factor on the pixels 0..255.")]
Mean = Annotated[str | None, typer.Option(help="Mean per channel, comma-separated.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation per channel.")]
Resize = Annotated[str | None, typer.Option(help="Shorter side, or HEIGHT,WIDTH.")]
Crop = Annotated[str | None, typer.Option(help="Centre crop: side, or HEIGHT,WIDTH.")]
ChannelOrder = Annotated[str | None, typer.Option(help="rgb or bgr.")]
Layout = Annotated[str | None, typer.Option(help="nchw or nhwc.")]


def preprocess_changes(
    *,
    scale: float | None,
    mean: str | None,
    std: str | None,
    resize: str | None,
    crop: str | None,
    channel_order: str | None,
    layout: str | None,
) -> dict[str, Any]:
    """Recipe changes (dotted keys) that the preprocessing options stand for.

    Raises:
        UsageError: A list that does not consist of numbers.
    """
    values = {
        "scale": scale,
        "mean": _numbers("--mean", mean),
        "std": _numbers("--std", std),
        "resize": parse_size("--resize", resize) if resize else None,
        "crop": parse_size("--crop", crop) if crop else None,
        "channel_order": channel_order,
        "layout": layout,
    }
    return {f"preprocess.{key}": value for key, value in values.items() if value is not None}


def _numbers(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{option}: expected numbers with commas between, got {text!r}.",
            hint=f"For example {option} 0.485,0.456,0.406.",
        ) from error


def parse_size(option: str, text: str) -> int | list[int]:
    """Reads a side, or ``HEIGHT,WIDTH``, in pixels.

    Raises:
        UsageError: The text is neither.
    """
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2):
        raise UsageError(
            f"{option}: expected a side or HEIGHT,WIDTH in pixels, got {text!r}.",
            hint=f"For example {option} 224.",
        )
    return sizes[0] if len(sizes) == 1 else sizes


def read_lines(path: Path) -> list[str]:
    """Lines of a text file without blanks at their ends; empty lines are left out.

    Raises:
        UsageError: The file cannot be read.
    """
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).", hint="Check the path.") from error
