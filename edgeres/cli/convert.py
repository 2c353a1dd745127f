"""``edgeres convert``: the whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import CiTold, screen

RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="Recipe file, or the name of one that ships; without it the embedded default.",
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", help="A target of `edgeres doctor`, or all; repeat for several."),
]
Output = Annotated[
    Path | None, typer.Option(help="Folder of the results; runs/NAME where not given.")
]
Untrained = Annotated[
    bool,
    typer.Option("--untrained", help="Accept a network that answers at random (to try it out)."),
]
Trust = Annotated[
    bool, typer.Option("--trust-recipe", help="Let the recipe name files outside its folder.")
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Do every stage anew, the shipped ones too.")
]

#: Keys that are of the recipe's own model, not of one that is given instead.
_OF_ONE_MODEL = (
    *("weights", "declared_top1", "sample_answer", "outputs", "input_size", "given_scales"),
    "labels",
)


@o.takes_preprocess
def convert(
    recipe: RecipeArgument = None,
    model: o.Model = None,
    weights: o.Weights = None,
    declared_top1: o.DeclaredTop1 = None,
    sample_answer: o.SampleAnswer = None,
    labels: o.Labels = None,
    task: o.Task = None,
    output_name: o.OutputName = None,
    input_size: o.InputSize = None,
    given_scales: o.GivenScales = None,
    input_type: o.Input = None,
    data: o.Data = None,
    calibration_data: o.CalibrationData = None,
    calibration_samples: Annotated[
        int | None,
        typer.Option(
            min=2, help="Images that calibrate; 512 if left out, or as many as there are."
        ),
    ] = None,
    train_data: o.TrainData = None,
    target: Targets = None,
    output: Output = None,
    metric: o.MetricName = None,
    max_drop: o.MaxDrop = None,
    confidence: o.Confidence = None,
    threads: o.Threads = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET.KEY=VALUE",
            help="A target's own option, e.g. tensorrt.max_batch=8; repeat for several.",
        ),
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="Also measure each layer's SQNR and sensitivity."),
    ] = False,
    *,
    preprocess: o.PreprocessOptions,
    untrained: Untrained = False,
    trust_recipe: Trust = False,
    no_cache: NoCache = False,
    junit: o.Junit = None,
    annotations: o.Annotations = False,
    as_json: o.Json = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Convert a trained network: prune, quantize, build and prove an engine for each target.

    With --model and no RECIPE nothing is pruned: the model is quantized, built and proven as it is.
    Exit code 1 means that a gate failed or is inconclusive; the report says which and why.
    """
    told = CiTold("convert", junit, annotations)
    with screen(as_json=as_json, verbose=verbose, debug=debug, ci=told) as out:
        from edgeres.cli.closing_lines import closing_lines
        from edgeres.evaluation.run_task import said_task
        from edgeres.pipeline.convert import convert as run
        from edgeres.pipeline.find_source import model_name
        from edgeres.pipeline.recipe_file import load_recipe
        from edgeres.report.junit import explanations_of, tell_ci, verdicts_of
        from edgeres.report.run_table import report_table

        changes: dict[str, Any] = {
            "model.source": model,
            "model.weights": str(weights) if weights else None,
            "model.declared_top1": declared_top1,
            "model.sample_answer": str(sample_answer) if sample_answer else None,
            "model.labels": str(labels) if labels else None,
            "model.given_scales": given_scales,
            "export.input": input_type,
            "task": None if task is None else said_task(task),
            "gates.metric": metric,
            "data.validation": data,
            "data.calibration": calibration_data or data,
            "data.calibration_samples": calibration_samples,
            "data.train": train_data,
            "targets": target,
            "gates.max_drop": max_drop,
            "gates.confidence": confidence,
            "benchmark.threads": threads,
            "gates.untrained": untrained or None,
            "report.layers": layers or None,
        }
        changes = {key: value for key, value in changes.items() if value is not None}
        changes |= o.target_options(option)
        changes |= o.source_changes(output_name, input_size)
        changes |= o.preprocess_changes(preprocess)
        if model is not None and recipe is None:
            changes |= {"name": model_name(model, weights), "prune": None}
            changes.setdefault("task", [])
            changes.setdefault("gates.max_drop", None)  # each task has a budget in its own unit
            for key in _OF_ONE_MODEL:
                changes.setdefault(f"model.{key}", None)
        loaded = load_recipe(recipe, changes, trusted=trust_recipe)
        folder = output or Path("runs") / loaded.name
        with out.listener() as listener:
            report = run(loaded, folder, use_cache=not no_cache, listener=listener)
        tell_ci(
            verdicts_of(report),
            explained=explanations_of(report),
            junit=junit,
            annotations=annotations,
            say=out.note,
        )
        table = report_table(report, out.console(), read=out.read_above(listener))
        out.result(report.to_dict(), table)
        if not as_json:
            out.lines({}, ["", *closing_lines(report, folder)])
        raise typer.Exit(report.exit_code)
