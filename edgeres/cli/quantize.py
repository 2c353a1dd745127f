"""The command that quantizes: a calibration table, and the Q/DQ model that one target asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen


@o.takes_preprocess
def quantize(
    onnx: o.Onnx,
    output: Annotated[
        Path, typer.Option(help="Q/DQ ONNX file to write; .onnx is added if it lacks.")
    ],
    data: Annotated[str, typer.Option(help="Calibration images, as for convert --data.")],
    target: Annotated[
        str | None,
        typer.Option(
            help="A target that `edgeres doctor` lists, or portable; a recipe with "
            "`portable: true` needs none."
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:N, gpu[:N], npu or auto.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="The target's own option that the engine will be built with, where it decides "
            "what computes the file; repeat for several.",
        ),
    ] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="uint8 or int8, where the target has a choice; auto leaves it to it."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Calibration table: read if it exists, else written.")
    ] = None,
    recipe: o.RecipeOption = None,
    train_data: o.TrainData = None,
    qat_epochs: Annotated[
        int | None, typer.Option(help="Epochs of quantization-aware training; none without it.")
    ] = None,
    *,
    preprocess: o.PreprocessOptions,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Calibrate an FP32 ONNX model and write the Q/DQ model that one target asks for, or all.

    With --qat-epochs, or a `qat:` block in the recipe, the INT8 network is trained first; the same
    command resumes.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.pipeline.quantize_file import quantize_file
        from edgeres.pipeline.recipe_file import stage_recipe

        changes = {
            **o.preprocess_changes(preprocess),
            "data.train": train_data,
            "quantize.qat.epochs": qat_epochs,
            "quantize.activations": activations,
        }
        settings = stage_recipe(recipe, changes, runs={"data.train": "--train-data"})
        with out.listener() as listener:
            made = quantize_file(
                onnx,
                output,
                recipe=settings,
                data=data,
                target=target,
                device=device,
                options=o.parse_options(option),
                table=table,
                listener=listener,
            )
        out.result(
            {"onnx": str(made.onnx), "table": str(made.table), **made.result.to_dict()},
            f"{made.onnx}: {len(made.result.quantized_nodes)} nodes quantized for {made.rule_set}",
        )
