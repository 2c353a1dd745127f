"""What ``--help`` shows: options in groups, examples, and every text as it was written.

Options are grouped by their names, so that one option is found under the same heading in every
command. Only commands with many options have groups; a few are easier to read in one list.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

_MANY = 12
_FRAMED = 60  # columns from which on options stand in frames
#: Types that say more to a programmer than to who types a value; of a list, one is given at a time.
_TYPES = {
    "int": "<int>",
    "list[str]": "<str>",
    "list[Path]": "<path>",
    "Path": "<path>",
    "int range": "<int>",
}

_GROUPS: dict[str, tuple[str, ...]] = {
    "Model": (
        *("model", "weights", "declared_top1", "sample_answer", "labels", "task", "output_name"),
        *("input_size", "given_scales", "input_type", "untrained", "recipe", "start", "opset"),
    ),
    "Data": ("data", "calibration_data", "train_data", "calibration_samples", "samples", "table"),
    "Preprocessing": (
        *("scale", "mean", "std", "resize", "crop", "channel_order", "layout", "interpolation"),
    ),
    "What must hold": (
        *("metric", "max_drop", "confidence", "min_int8_coverage", "max_p99_ms", "min_speedup"),
        *("max_size_bytes", "fp32", "baseline", "conformance", "record_conformance"),
    ),
    "Where it runs": (
        *("target", "option", "device", "threads", "fleet", "known_hosts", "identity"),
        *("remote_python", "workers", "scheduler", "latency_on"),
    ),
    "What comes out": (
        *("output", "layers", "junit", "annotations", "save", "explain", "as_json", "verbose"),
        *("debug", "no_cache", "trust_recipe"),
    ),
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}

#: By command: what somebody wants, and the line that does it.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "convert": (
        ("the embedded network", "edgeres convert"),
        (
            "your own checkpoint and a folder of images",
            "edgeres convert --model net.pth --data photos --target openvino",
        ),
        (
            "an ONNX file, and how its images are prepared",
            "edgeres convert --model net.onnx --data photos --resize 256 --crop 224 "
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        ),
        ("no labels at all", "edgeres convert --model net.onnx --data photos --task outputs"),
    ),
    "init": (("look at both and write a recipe", "edgeres init --model net.pth --data photos"),),
    "tune": (("ten tries of the embedded recipe", "edgeres tune --trials 10"),),
    "bundle": (
        ("one file of a run", "edgeres bundle runs/net"),
        ("a repository for a server", "edgeres bundle runs/net --serve triton"),
    ),
    "run": (
        ("an image", "edgeres run net.edgeres cat.jpg --top 3"),
        ("a folder", "edgeres run net.edgeres photos --json"),
        ("names as they come", "find photos -name '*.jpg' | edgeres run net.edgeres -"),
    ),
    "push": (("into a registry", "edgeres push net.edgeres ghcr.io/me/net:1"),),
    "pull": (("and back", "edgeres pull ghcr.io/me/net:1 --output net.edgeres"),),
    "train": (("from a recipe", "edgeres train train.yaml --output runs/train"),),
    "prune": (
        (
            "half of the multiply-adds",
            "edgeres prune net.pth --output small.safetensors --macs-ratio 0.5 --train-data photos",
        ),
        (
            "an ONNX file, without training",
            "edgeres prune net.onnx --output small.onnx --macs-ratio 0.6 --data photos "
            "--scale 0.0039 --mean 0.5 --std 0.5",
        ),
    ),
    "export": (("to ONNX", "edgeres export net.pth --output net.onnx --size 224,224"),),
    "quantize": (
        (
            "for one engine",
            "edgeres quantize net.onnx --target onnxruntime --data photos --output int8.onnx",
        ),
    ),
    "sensitivity": (
        ("of every layer", "edgeres sensitivity net.onnx --target onnxruntime --data photos"),
    ),
    "build": (("an engine", "edgeres build int8.onnx --target openvino --output model.xml"),),
    "validate": (
        ("an engine of a run", "edgeres validate runs/net/openvino/model.xml --data photos"),
        (
            "in CI, on the board",
            "edgeres validate model.xml --data photos --baseline predictions.npz "
            "--device ssh://pi@board --junit result.xml",
        ),
    ),
    "benchmark": (
        ("two engines in turns", "edgeres benchmark fp32.onnx int8.onnx --threads 2"),
        ("on a board", "edgeres benchmark runs/net/openvino/model.xml --device ssh://pi@board"),
    ),
    "inspect": (("layers and their precision", "edgeres inspect runs/net/openvino/model.xml"),),
    "compare": (
        (
            "an engine and its source",
            "edgeres compare runs/net/baseline/model.onnx "
            "runs/net/openvino/model.xml --data photos",
        ),
    ),
    "report": (("the page of a run", "edgeres report runs/net"),),
    "doctor": (("for a program", "edgeres doctor --json"),),
    "clean": (("of one run", "edgeres clean runs/net"),),
}


def prepare(command: Any) -> None:
    """Makes a command's options ready to be shown; a second call changes nothing.

    Args:
        command: A command of Typer's, or the program itself.
    """
    options = [param for param in command.params if isinstance(param, TyperOption)]
    for option in options:
        if option.is_flag:
            option.metavar = ""  # else it would say <bool>
        elif option.metavar is None:
            option.metavar = _TYPES.get(option.bare_type())
        if len(options) > _MANY:
            option.rich_help_panel = _GROUP_OF.get(str(option.name))


def examples_text(command: str, *, markup: bool) -> str:
    """The examples of a command, with rich's markup or without; empty where it has none."""
    lines = ["\b", "Examples:"]  # the first keeps line breaks, as click has it
    for what, line in EXAMPLES.get(command, ()):
        lines += [f"  [dim]# {what}[/dim]" if markup else f"  # {what}", f"  {line}"]
    return "\n".join(lines) if len(lines) > 2 else ""


@contextmanager
def _as_shown(command: Any) -> Iterator[None]:
    """The command's texts as they have to be to be shown; without frames on a narrow screen.

    Frames take the room of words there. Where they are drawn, texts are taken for markup, in which
    ``[user@]`` would be a style.
    """
    from rich.markup import escape

    prepare(command)
    framed = shutil.get_terminal_size().columns >= _FRAMED
    texts = [command, *(param for param in command.params if getattr(param, "help", None))]
    plain, mode = [text.help for text in texts], command.rich_markup_mode
    command.epilog = examples_text(str(command.name), markup=framed)
    try:
        if framed:
            for text in texts:
                text.help = escape(text.help or "")
        else:
            command.rich_markup_mode = None
        yield
    finally:
        command.rich_markup_mode = mode
        for text, words in zip(texts, plain, strict=True):
            text.help = words


def _flag(option: Any) -> Any:
    """``--help``, which is a flag like the others."""
    if option is not None:
        option.metavar = ""
    return option


class HelpCommand(TyperCommand):
    """A command whose help has groups and examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As the base."""
        with _as_shown(self):
            super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """As the base."""
        return _flag(super().get_help_option(ctx))


class HelpGroup(TyperGroup):
    """The program itself, likewise."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """As the base."""
        with _as_shown(self):
            super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """As the base."""
        return _flag(super().get_help_option(ctx))
