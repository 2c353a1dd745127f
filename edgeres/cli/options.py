"""Options that several commands share, and the recipe keys that they stand for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeres.errors import UsageError

if TYPE_CHECKING:
    from edgeres.backends.base import ShapeRange

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="Checkpoint or its folder, .onnx, .keras or .pt2 file, architecture name, or "
        "FILE.py:FUNCTION that returns a torch module."
    ),
]
Weights = Annotated[
    Path | None, typer.Option(help="Weights of a named architecture, or for FILE.py:FUNCTION.")
]
Data = Annotated[
    str | None,
    typer.Option(
        help="A folder of images, or of folders named by class; list:FILE, npz:PATH, "
        "idx:IMAGES,LABELS, tensors:PATH, audiofolder:PATH, python:FILE.py:FACTORY; "
        "fashion-mnist, which comes along, if left out."
    ),
]
CalibrationData = Annotated[
    str | None,
    typer.Option(
        help="Calibration images; those of --data's training split if left out, else of --data."
    ),
]
TrainData = Annotated[str | None, typer.Option(help="Training images, for fine-tuning.")]
Target = Annotated[str, typer.Option(help="A target; `edgeres doctor` lists them.")]
Onnx = Annotated[Path, typer.Argument(help="ONNX file.")]
Engine = Annotated[Path, typer.Argument(help="Engine file, with its sidecar beside it.")]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", help="Recipe whose settings hold; the default one if none."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda:N, gpu[:N], npu or auto.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; the runtime's choice if left out.")
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        help="Largest allowed loss of the gated metric, in its unit; 0.5 points of top-1 if left "
        "out."
    ),
]
Confidence = Annotated[
    float | None,
    typer.Option(help="One-sided confidence of the bound on the drop; 0.95 if left out."),
]
KnownHosts = Annotated[
    Path | None, typer.Option(help="Trusted host keys, for ssh://; ~/.ssh/known_hosts if left out.")
]
Identity = Annotated[Path | None, typer.Option(help="Private key, for ssh://.")]
RemotePython = Annotated[str, typer.Option(help="Python with edgeres on the host, for ssh://.")]
Junit = Annotated[Path | None, typer.Option(help="Write the checks as JUnit XML.")]
Annotations = Annotated[
    bool, typer.Option("--annotations", help="Say the verdicts as GitHub annotations, on stderr.")
]
Scale = Annotated[float | None, typer.Option(help="Factor on the pixels 0..255.")]
Mean = Annotated[str | None, typer.Option(help="Mean per channel, comma-separated.")]
Std = Annotated[str | None, typer.Option(help="Standard deviation per channel.")]
Resize = Annotated[str | None, typer.Option(help="Shorter side, or HEIGHT,WIDTH.")]
Crop = Annotated[str | None, typer.Option(help="Centre crop: side, or HEIGHT,WIDTH.")]
ChannelOrder = Annotated[str | None, typer.Option(help="rgb or bgr.")]
Layout = Annotated[str | None, typer.Option(help="nchw or nhwc.")]
Interpolation = Annotated[
    str | None, typer.Option(help="Of the resize: nearest, bilinear, bicubic or lanczos.")
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the outputs mean: classification, outputs (no labels needed), regression, "
        "binary, multilabel, embedding, segmentation, or custom:FILE.py:FUNCTION.",
    ),
]
MetricName = Annotated[
    list[str] | None,
    typer.Option("--metric", help="Metric of the task that is gated; repeat for several."),
]
DeclaredTop1 = Annotated[
    float | None, typer.Option(help="Top-1 that the model is known to reach, in (0, 1); checked.")
]
SampleAnswer = Annotated[
    Path | None,
    typer.Option(help="A checkpoint's own answers (.npz: inputs, outputs); checked."),
]
Labels = Annotated[
    Path | None,
    typer.Option(help="Class names in the order of the scores: one a line, or JSON."),
]
OutputName = Annotated[
    list[str] | None,
    typer.Option(
        help="Output of an .onnx file or code that is kept, where it has several, or a tensor "
        "inside; repeat for several."
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(metavar="H,W", help="Size that an .onnx file or a module leaves open."),
]

Input = Annotated[
    str | None,
    typer.Option(
        "--input",
        metavar="uint8|float",
        help="What engines are fed: the resized image as bytes, (N, H, W, C), with the rest of the "
        "preprocessing inside; or preprocessed floats.",
    ),
]
GivenScales = Annotated[
    str | None,
    typer.Option(
        metavar="remove|keep",
        help="Take the scales out of an .onnx file that is quantized already, or keep them.",
    ),
]


_PREPROCESS = {
    "scale": Scale,
    "mean": Mean,
    "std": Std,
    "resize": Resize,
    "crop": Crop,
    "channel_order": ChannelOrder,
    "layout": Layout,
    "interpolation": Interpolation,
}

#: What was given of the preprocessing options, by name, ``None`` where nothing was.
PreprocessOptions = dict[str, Any]


def takes_preprocess(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the preprocessing options in place of its parameter ``preprocess``.

    The command gets what was said as one :data:`PreprocessOptions`, for
    :func:`preprocess_changes`.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "preprocess":
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for name, kind in _PREPROCESS.items():
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
                )
            )

    @functools.wraps(command)
    def wrapper(**options: Any) -> None:
        command(preprocess={name: options.pop(name) for name in _PREPROCESS}, **options)

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapper


def preprocess_changes(options: PreprocessOptions) -> dict[str, Any]:
    """Recipe changes (dotted keys) that the preprocessing options stand for.

    Raises:
        UsageError: A list that does not consist of numbers.
    """
    return {f"preprocess.{key}": value for key, value in preprocess_fields(options).items()}


def preprocess_fields(options: PreprocessOptions) -> dict[str, Any]:
    """What was given of the preprocessing, by the name of its field.

    Raises:
        UsageError: A list that does not consist of numbers.
    """
    size = {key: options[key] for key in ("resize", "crop")}
    values = {
        **options,
        **{
            key: parse_numbers(f"--{key}", text)
            for key in ("mean", "std")
            if (text := options[key]) is not None
        },
        **{key: parse_size(f"--{key}", text) if text else None for key, text in size.items()},
    }
    return {key: value for key, value in values.items() if value is not None}


def source_changes(output_name: list[str] | None, input_size: str | None) -> dict[str, Any]:
    """Recipe changes (dotted keys) that ``--output-name`` and ``--input-size`` stand for.

    Raises:
        UsageError: A text that is no size.
    """
    changes: dict[str, Any] = {}
    if output_name:
        changes["model.outputs"] = output_name
    if input_size is not None:
        size = parse_size("--input-size", input_size)
        changes["model.input_size"] = [size, size] if isinstance(size, int) else size
    return changes


def parse_options(texts: list[str] | None) -> dict[str, str]:
    """Reads ``KEY=VALUE`` options; the target itself knows which there are.

    Raises:
        UsageError: A text without a key or ``=``, or a key given twice.
    """
    options: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals or key in options:
            twice = "given twice" if key in options else f"expected KEY=VALUE, got {text!r}"
            raise UsageError(f"--option: {twice}.", hint="For example --option max_batch=8.")
        options[key] = value
    return options


def target_options(texts: list[str] | None) -> dict[str, str]:
    """Recipe changes (dotted keys) that ``TARGET.KEY=VALUE`` options stand for.

    Raises:
        UsageError: As :func:`parse_options`, or no target before the key.
    """
    changes = {}
    for key, value in parse_options(texts).items():
        target, dot, name = key.partition(".")
        if not target or not dot or not name:
            raise UsageError(
                f"--option: expected TARGET.KEY=VALUE, got {key}={value}.",
                hint="For example --option tensorrt.max_batch=8.",
            )
        changes[f"build.{target}.options.{name}"] = value
    return changes


def parse_shapes(texts: list[str] | None) -> dict[str, ShapeRange]:
    """Reads ``[INPUT=]MIN,OPT,MAX``, each like ``1x3x224x224``.

    Raises:
        UsageError: A text that is not three shapes, or an input named twice.
    """
    from edgeres.backends.base import ShapeRange

    shapes: dict[str, ShapeRange] = {}
    for text in texts or ():
        name, _, three = text.rpartition("=")
        try:
            low, usual, high = (tuple(map(int, s.split("x"))) for s in three.split(","))
        except ValueError as error:
            raise UsageError(
                f"--shapes: expected MIN,OPT,MAX, got {text!r}.",
                hint="For example --shapes 1x3x224x224,8x3x224x224,32x3x224x224.",
            ) from error
        if name in shapes:
            raise UsageError("--shapes: one input is given twice.", hint="Keep one of them.")
        shapes[name] = ShapeRange(low, usual, high)
    return shapes


def parse_numbers(option: str, text: str) -> list[float]:
    """Reads numbers with commas between.

    Raises:
        UsageError: The text is something else.
    """
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
