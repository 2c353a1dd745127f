"""The command that measures what quantizing each layer costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen

SAMPLES = 256


@o.takes_preprocess
def sensitivity(
    onnx: o.Onnx,
    target: o.Target,
    data: Annotated[str, typer.Option(help="Calibration samples, as for convert --data.")],
    device: Annotated[str | None, typer.Option(help="cpu, cuda:N, gpu[:N], npu or auto.")] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Held-out samples to measure on; 256, or half of a small set."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Calibration table; made from the other images if none.")
    ] = None,
    all_but: Annotated[
        bool, typer.Option("--all-but", help="Also quantize everything but each layer.")
    ] = False,
    task: o.Task = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Metric of the task that is measured beside the noise; its first."),
    ] = None,
    recipe: o.RecipeOption = None,
    threads: o.Threads = None,
    *,
    preprocess: o.PreprocessOptions,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Measure the noise that quantizing each layer alone brings to the outputs.

    Weights are rounded to nearest and biases corrected from the table, whatever the recipe says.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.backends.target import rules_of
        from edgeres.data.source import open_dataset
        from edgeres.evaluation.run_task import said_task, task_of
        from edgeres.pipeline.recipe_file import stage_recipe
        from edgeres.pipeline.source import onnx_preprocess
        from edgeres.pipeline.tasks import said_of
        from edgeres.quantization.isolate import try_model
        from edgeres.report.sensitivity_table import sensitivity_table
        from edgeres.stages.int8 import sensitivity as run
        from edgeres.stages.sample_counts import fit_sensitivity

        changes = o.preprocess_changes(preprocess)
        if task is not None:
            changes["task"] = [said_task(task)]
        settings = stage_recipe(recipe, changes, runs={"task": "--task"})
        images = open_dataset(data, split="calibration")
        measured = fit_sensitivity(samples, SAMPLES, len(images), calibrated=table is not None)
        if samples is None and measured < SAMPLES:
            out.note(
                f"few images: {measured} of {len(images)} are measured on ({SAMPLES} by default, "
                "--samples)."
            )
        try_model(onnx)
        with out.listener() as listener:
            layers = run(
                onnx,
                rules=rules_of(target, device, activations=settings.quantize.activations),
                data=images,
                samples=measured,
                preprocess=onnx_preprocess(settings, onnx),
                settings=settings.quantize,
                task=task_of([] if settings.is_classifier else said_of(settings)),
                metric=metric or "",
                table=table,
                all_but=all_but,
                threads=threads,
                progress=listener.bar("sensitivity"),
            )
        out.result(layers.to_dict(), sensitivity_table(layers))
