"""Commands of one stage each: files in, files out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen

if TYPE_CHECKING:
    from edgeres.pruning.summary import PruneSummary

Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint (.safetensors, .pt).")]


def train(
    recipe: Annotated[Path, typer.Argument(help="Training recipe (YAML).")],
    output: Annotated[Path, typer.Option(help="Folder of checkpoint, log and resumable state.")],
    start: Annotated[Path | None, typer.Option(help="Checkpoint to train on.")] = None,
    data: o.Data = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Train a network from scratch, or train a checkpoint on; the same command resumes."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.pipeline.recipe_file import load_training_recipe
        from edgeres.stages.network import train as run
        from edgeres.stages.sample_counts import fit_held_out, training_labels

        plan = load_training_recipe(recipe, data=data)
        labels = training_labels(data or plan.data)
        given = "held_out" in plan.training.model_fields_set
        count, few = fit_held_out(labels, plan.training.held_out, given=given)
        if few:
            out.note(f"few images: {few}.")
        with out.listener() as listener:
            summary = run(
                output,
                settings=plan.training.replace(held_out=count),
                data=data or plan.data,
                preprocess=plan.preprocess,
                start=start,
                progress=listener.bar("train"),
            )
        tested = f", test {summary.test_top1:.4f}" if summary.test_top1 is not None else ""
        out.result(
            asdict(summary),
            f"{output / summary.checkpoint}: epoch {summary.best_epoch} of {summary.epochs}, "
            f"held-out top-1 {summary.held_out_top1:.4f}{tested}",
        )


@o.takes_preprocess
def prune(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint (.safetensors, .pt), or .onnx.")],
    output: Annotated[
        Path, typer.Option(help="Pruned network; .safetensors or .onnx is added if it lacks.")
    ],
    recipe: o.RecipeOption = None,
    macs_ratio: Annotated[float | None, typer.Option(help="MACs to keep, in (0, 1).")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images to prune an .onnx file by, as for convert; no labels needed."),
    ] = None,
    train_data: o.TrainData = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of fine-tuning.")] = None,
    allocation: Annotated[
        str | None, typer.Option(help="global, uniform, latency or per_layer.")
    ] = None,
    target_latency: Annotated[
        float | None,
        typer.Option(help="Share of the dense latency to reach, in (0, 1); --allocation latency."),
    ] = None,
    latency_on: Annotated[
        str | None, typer.Option(help="Target whose latency counts; the first here if none.")
    ] = None,
    threads: o.Threads = None,
    *,
    preprocess: o.PreprocessOptions,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Remove channels from a trained network and fine-tune it; the same command resumes.

    With --allocation latency the network's layers are measured on the target first, and the widths
    that they lead to are built and measured before they are kept. An ONNX file needs no training
    images: with --data its layers are fitted to what the whole network gives.
    """
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.backends.target import target_list
        from edgeres.errors import UsageError
        from edgeres.layer_latency.device import latency_target_here
        from edgeres.models.checkpoint import load_checkpoint
        from edgeres.pipeline.recipe_file import stage_recipe
        from edgeres.pipeline.source import choose_preprocess, facts_of, relatives_note
        from edgeres.recipe.recipe import LEFT_OUT, is_onnx
        from edgeres.stages.network import prune as run
        from edgeres.stages.sample_counts import fit_pruning, training_labels
        from edgeres.system.files import output_file

        changes: dict[str, object] = {
            "prune.macs_ratio": macs_ratio,
            "prune.finetune.epochs": epochs,
            "prune.allocation": allocation,
            "prune.target_latency": target_latency,
            "prune.latency_on": latency_on,
            "benchmark.threads": threads,
        }
        if allocation not in (None, "global", "uniform") and macs_ratio is None:
            changes["prune.macs_ratio"] = LEFT_OUT  # it was for another allocation
        changes |= {"data.train": train_data, **o.preprocess_changes(preprocess)}
        settings = stage_recipe(recipe, changes, runs={"data.train": "--train-data"})
        if is_onnx(str(checkpoint)):
            from edgeres.pipeline.pruned_graph import prune_file

            # The default recipe's training images are of its own network.
            learned = settings.data.train if recipe is not None else train_data
            if epochs is not None and learned is None:
                raise UsageError(
                    "--epochs trains, and there are no training images.", hint="Give --train-data."
                )
            with out.listener() as listener:
                written, summary = prune_file(
                    checkpoint,
                    output,
                    recipe=settings,
                    data=data,
                    train_data=learned,
                    threads=threads,
                    listener=listener,
                )
            out.result({"onnx": str(written), **summary.to_dict()}, _told(written, summary))
            return
        if data is not None:
            raise UsageError(
                "--data is for an ONNX file; a checkpoint learns from training images.",
                hint="Give --train-data.",
            )
        output = output_file(output, ".safetensors", source=checkpoint)
        dense = load_checkpoint(checkpoint)
        images = settings.data.train
        if settings.prune is None or images is None:
            raise UsageError(
                "pruning needs a recipe with a `prune:` block, and training images.",
                hint="Give --recipe or --train-data.",
            )
        prepared = choose_preprocess(settings.preprocess, facts_of(dense))
        if dense.plan.assumed:
            out.note(f"warning: {relatives_note(dense.plan.architecture)}")
        pruning, few = fit_pruning(settings.prune, training_labels(images))
        if few:
            out.note(f"few images: {few}.")
        with out.listener() as listener:
            place, measuring = None, None
            if settings.prune.allocation == "latency":
                place = latency_target_here(settings, target_list(settings.targets), listener.note)
                measuring = listener.bar(f"measure layers ({place.target.name})")
            summary = run(
                checkpoint,
                output,
                settings=pruning,
                train_data=images,
                preprocess=prepared,
                work=output.with_name(f"{output.stem}.finetune"),
                latency_on=place,
                measuring=measuring,
                threads=threads,
                progress=listener.bar("prune and fine-tune"),
            )
        out.result({"checkpoint": str(output), **summary.to_dict()}, _told(output, summary))


def _told(written: Path, summary: PruneSummary) -> str:
    """What a person reads of a pruned network."""
    return f"{written}: " + "\n".join(summary.lines())


def export(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option(help="ONNX file to write; .onnx is added if it lacks.")],
    size: Annotated[str, typer.Option(help="HEIGHT,WIDTH that the network sees.")],
    opset: Annotated[int, typer.Option(min=20, max=24, help="ONNX operator set.")] = 20,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Export a checkpoint to FP32 ONNX and check that both answer alike."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.graph.summary import summarize
        from edgeres.models.checkpoint import load_checkpoint
        from edgeres.pipeline.source import relatives_note
        from edgeres.recipe.recipe import ExportSettings
        from edgeres.stages.network import export as run
        from edgeres.system.files import output_file

        output = output_file(output, ".onnx", source=checkpoint)
        sizes = o.parse_size("--size", size)
        height, width = (sizes, sizes) if isinstance(sizes, int) else sizes
        run(checkpoint, output, image_size=(height, width), settings=ExportSettings(opset=opset))
        summary = summarize(output)
        loaded = load_checkpoint(checkpoint).plan
        if loaded.assumed:
            out.note(f"warning: {relatives_note(loaded.architecture)}")
        out.result(
            {"onnx": str(output), "parameters": summary.parameters, "macs": summary.macs},
            f"{output}: {summary.parameters:,} parameters, {summary.macs:,} MACs, "
            f"opset {summary.opset}",
        )
