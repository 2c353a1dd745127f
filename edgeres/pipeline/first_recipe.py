"""A first recipe from what was seen of a network and of its data, each choice with a comment."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeres.data.preprocess import Preprocess
from edgeres.errors import RecipeError, StorageError
from edgeres.evaluation.statistics import drop_upper
from edgeres.modules.spec import is_code
from edgeres.pipeline.look import Looked
from edgeres.pipeline.recipe_file import load_recipe
from edgeres.recipe.recipe import ModelBlock
from edgeres.system.files import write_atomic

_USUAL_DROP = 0.5
#: Share of the images that INT8 answers otherwise without being worse: as many each way.
_FLIPS = 0.005
_FEW = 512  # calibration images by default
_ALIKE = 1e-9


@dataclass(frozen=True)
class Said:
    """What the user said.

    Attributes:
        model: The recipe's ``model:`` block as it is known.
        data: As after ``--data``.
        targets: Those that are here.
        labels_file: Where the class names lie, beside the recipe, that the answers show; empty
            where they show none.
    """

    model: ModelBlock
    data: str
    targets: Sequence[str]
    labels_file: str = ""


def provable_drop(samples: int) -> float:
    """Points of top-1 below which a network that loses nothing is likely proven to lose.

    For so many images, of which one in two hundred is lost and as many are gained.
    """
    flips = max(1, round(_FLIPS * samples))
    return 100 * drop_upper(flips, flips, samples)


def recipe_text(looked: Looked, said: Said, place: Path) -> str:
    """The text of a recipe that lies in the folder ``place``."""
    facts, data = looked.facts, looked.data
    spec = _anchored_data(said.data, place)
    judged = data.parts["validation"]
    calibrating = data.parts.get("calibration", data.parts.get("train", judged))
    lines = [
        "# Made by `edgeres init`. A key that is not here has its default value; docs/recipes.md",
        "# says what there is.",
        f"name: {_text(Path(said.model.weights or said.model.source).stem)}",
        "model:",
        *_model(said, looked, place),
        *_preprocess(looked.tried.preprocess, looked),
        *([] if looked.task == "classification" else _outputs(looked)),
        "data:",
        f"  calibration: {_text(spec)}{_calibration(calibrating, looked)}",
        f"  validation: {_text(spec)}  # {judged:,} {_things(looked)}",
    ]
    if "train" in data.parts and data.labelled:
        lines.append(f"  train: {_text(spec)}  # {data.parts['train']:,}; pruning learns from them")
    lines.append(f"targets: [{', '.join(said.targets)}]")
    if looked.task == "classification":
        lines += _gates(judged)
        if facts.num_classes and "train" in data.parts:
            lines += _pruning()
    return "\n".join(lines) + "\n"


def write_first_recipe(
    path: Path, text: str, labels: Mapping[Path, Sequence[str]] | None = None
) -> None:
    """Writes a recipe and reads it again, so that what is written can be run.

    Args:
        path: Of the recipe.
        text: What goes into it.
        labels: Files of class names that go beside it.

    Raises:
        StorageError: A file is there already, or cannot be written.
        RecipeError: The recipe would not load; all files are taken away again.
    """
    files = {path: text, **{file: "\n".join(names) for file, names in (labels or {}).items()}}
    refuse_there(files)
    for file, content in files.items():
        write_atomic(file, content.encode() + b"\n" * (file != path))
    try:
        load_recipe(path, trusted=True)
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise


def refuse_there(files: Iterable[Path]) -> None:
    """Refuses to write over files.

    Raises:
        StorageError: One is there.
    """
    for file in files:
        if file.exists():
            raise StorageError(
                f"{file}: there is such a file already.",
                hint="Name another one with --output, or move it away.",
            )


def needs_trust(path: Path) -> bool:
    """Whether a recipe that loads is refused untrusted: it names code, or files elsewhere."""
    try:
        load_recipe(path)
    except RecipeError:
        return True
    return False


def _text(value: str) -> str:
    """A text as YAML takes it on one line; JSON's quotes are YAML's."""
    plain = value and all(char.isalnum() or char in "_-./" for char in value)
    return value if plain and not value[0].isdigit() else json.dumps(value, ensure_ascii=False)


def _anchored(path: str, place: Path) -> str:
    """A path as the recipe names it: relative to its folder; absolute where it lies elsewhere."""
    whole, folder = Path(path).expanduser().resolve(), place.resolve()
    return str(whole.relative_to(folder) if whole.is_relative_to(folder) else whole)


def _anchored_data(spec: str, place: Path) -> str:
    kind, colon, rest = spec.partition(":")
    if Path(spec).expanduser().exists():
        return _anchored(spec, place)
    if colon and Path(rest).expanduser().exists():
        return f"{kind}:{_anchored(rest, place)}"
    return spec


def _model(said: Said, looked: Looked, place: Path) -> Iterable[str]:
    model = said.model
    summary, facts = looked.summary, looked.facts
    what = f"{summary.parameters / 1e6:.2g} M parameters, {summary.macs / 1e6:,.0f} M multiply-adds"
    classes = f", {facts.num_classes} classes" if facts.num_classes else ""
    source = model.source
    if is_code(source):
        file, colon, function = source.rpartition(":")
        source = f"{_anchored(file, place)}{colon}{function}"
    elif Path(source).expanduser().exists():
        source = _anchored(source, place)
    yield f"  source: {_text(source)}  # {facts.name}, {what}{classes}"
    if said.labels_file:
        yield f"  labels: {_text(said.labels_file)}  # in the order that its answers show: look"
    for key in ("weights", "labels"):
        value = getattr(model, key)
        if value is not None and not (key == "labels" and said.labels_file):
            yield f"  {key}: {_text(_anchored(value, place))}"
    if model.input_size is not None:
        yield f"  input_size: [{model.input_size[0]}, {model.input_size[1]}]"
    if model.outputs:
        yield f"  outputs: [{', '.join(map(_text, model.outputs))}]"


def _preprocess(preprocess: Preprocess, looked: Looked) -> Iterable[str]:
    if looked.facts.preprocess is not None or looked.data.kind == "features":
        if looked.data.kind != "features":
            yield "# preprocess: the network says it itself"
        return
    yield f"# {looked.tried.reason}."
    yield "preprocess:"
    values = preprocess.to_dict()
    usual = Preprocess(channels=preprocess.channels).to_dict()
    for key in ("scale", "mean", "std", "resize", "crop", "channel_order", "layout"):
        value = values[key]
        if key == "scale" and abs(preprocess.scale * 255 - 1) < _ALIKE:
            yield "  scale: 0.00392156862745098  # 1 / 255"
        elif value != usual[key] or key == "scale":
            yield f"  {key}: {json.dumps(value)}"


def _outputs(looked: Looked) -> Iterable[str]:
    yield "# Outputs are compared with the float network's, without labels; docs/tasks.md lists"
    yield "# tasks that judge by labels: regression, binary, multilabel, embedding, segmentation."
    yield "task: {name: outputs}"


def _calibration(count: int, looked: Looked) -> str:
    few = f"; {_FEW} are usual" if count < _FEW else ""
    own = "calibration" in looked.data.parts or "train" in looked.data.parts
    shared = "" if own else "; they also judge, so accuracy looks a little too good"
    return f"  # {min(count, _FEW):,} of {count:,} calibrate{few}{shared}"


def _things(looked: Looked) -> str:
    data = looked.data
    classes = f" of {len(data.classes)} classes" if data.classes and data.labelled else ""
    return f"{data.kind}{classes} judge"


def _gates(samples: int) -> Iterable[str]:
    least = provable_drop(samples)
    drop = _USUAL_DROP if least <= _USUAL_DROP else math.ceil(2 * least) / 2
    yield "gates:"
    if drop == _USUAL_DROP:
        yield f"  max_drop: {drop}  # points of top-1 that INT8 may cost, at 95 % confidence"
    else:
        yield f"  # Points of top-1: {samples:,} images prove no loss below {least:.1f}."
        yield f"  max_drop: {drop}"


def _pruning() -> Iterable[str]:
    yield "# Half of the multiply-adds, and training until the accuracy is back (minutes to hours):"
    yield "# prune: {macs_ratio: 0.5}"
