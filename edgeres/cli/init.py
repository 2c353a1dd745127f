"""``edgeres init``: from a model file and a folder to a recipe and the next command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeres.pipeline.look import Looked


def init(
    model: Annotated[
        str,
        typer.Option(
            help="Checkpoint or its folder, .onnx, .keras or .pt2 file, architecture name, or "
            "FILE.py:FUNCTION that returns a torch module."
        ),
    ],
    data: Annotated[str, typer.Option(help="A folder of images, or another form of --data.")],
    weights: o.Weights = None,
    labels: o.Labels = None,
    output_name: o.OutputName = None,
    input_size: o.InputSize = None,
    output: Annotated[
        Path | None, typer.Option(help="The recipe to write; NAME.yaml here if left out.")
    ] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Look at a trained network and at images, write a recipe, and say the next command.

    Where the network does not say how its images are prepared and the images have labels, the usual
    ways are tried on a few of them.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.backends.target import runnable_targets
        from edgeres.pipeline.find_source import model_name
        from edgeres.pipeline.first_recipe import (
            Said,
            needs_trust,
            recipe_text,
            refuse_there,
            write_first_recipe,
        )
        from edgeres.pipeline.look import look
        from edgeres.recipe.recipe import ModelBlock

        sides = o.source_changes(None, input_size).get("model.input_size")
        block = ModelBlock(
            source=model,
            weights=str(weights) if weights else None,
            labels=str(labels) if labels else None,
            outputs=tuple(output_name) if output_name else None,
            input_size=(sides[0], sides[1]) if sides else None,
        )
        place = output or Path(f"{model_name(model, weights)}.yaml")
        labels_file = place.with_suffix(".labels.txt")
        refuse_there((place, labels_file))
        looked = look(block, data, say=lambda what: out.note(f"  {what}"))
        names = looked.tried.class_names
        said = Said(block, data, runnable_targets(), labels_file.name if names else "")
        text = recipe_text(looked, said, place.parent)
        write_first_recipe(place, text, {labels_file: names} if names else {})
        command = f"edgeres convert {shlex.quote(str(place))}"
        command += " --trust-recipe" if needs_trust(place) else ""
        content = {
            "recipe": str(place),
            "command": command,
            "name": looked.facts.name,
            "classes": looked.facts.num_classes,
            "size": list(looked.size),
            "task": looked.task,
            "preprocess": looked.tried.preprocess.to_dict(),
            "preprocess_reason": looked.tried.reason,
            "preprocess_certain": looked.tried.certain,
            "tried": dict(looked.tried.shares),
            "data": looked.data.parts,
            "labels": list(names),
            "notes": list(_notes(looked)),
        }
        out.lines(content, [*_told(looked), "", f"Recipe: {place}", f"Next:   {command}"])


def _told(looked: Looked) -> Iterator[str]:
    """What was found, a line each."""
    facts, data = looked.facts, looked.data
    height, width = looked.size
    classes = f", {facts.num_classes} classes" if facts.num_classes else ""
    yield (
        f"Network: {facts.name}, {looked.summary.parameters / 1e6:.3g} M parameters, "
        f"{looked.summary.macs / 1e6:,.0f} M multiply-adds, input {facts.in_channels} x {height} x "
        f"{width}{classes}"
    )
    parts = ", ".join(f"{count:,} {split}" for split, count in data.parts.items())
    named = ", ".join(data.classes[:5]) + (", ..." if len(data.classes) > 5 else "")
    shown = f", {len(data.classes)} classes ({named})" if data.labelled else ", no labels"
    yield f"Data:    {parts} {data.kind}{shown}"
    yield f"Images:  {looked.tried.reason}"
    for words, share in looked.tried.shares:
        yield f"         {share:4.0%}  {words}"
    for note in _notes(looked):
        yield f"note: {note}"


def _notes(looked: Looked) -> Iterator[str]:
    yield from looked.notes
    yield from looked.data.notes
    if looked.tried.note:
        yield looked.tried.note
