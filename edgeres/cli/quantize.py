"""The command that quantizes: a calibration table, and the Q/DQ model that one target asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import Screen, screen
from edgeres.cli.stages import Onnx, RecipeOption, onnx_preprocess, stage_recipe

if TYPE_CHECKING:
    from edgeres.data.preprocess import Preprocess
    from edgeres.quantization.table import CalibrationTable
    from edgeres.recipe.quantize import QuantizeBlock


@o.takes_preprocess
def quantize(
    onnx: Onnx,
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
    device: Annotated[str | None, typer.Option(help="cpu or cuda:N.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="Calibration table: read if it exists, else written.")
    ] = None,
    recipe: RecipeOption = None,
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
        from edgeres.backends.target import rules_of
        from edgeres.pipeline.networks import train_data_of
        from edgeres.quantization.table import CalibrationTable
        from edgeres.quantization.trial import try_model
        from edgeres.stages.int8 import equalize, qat
        from edgeres.stages.int8 import quantize as run
        from edgeres.stages.sample_counts import fit_qat, training_labels
        from edgeres.stages.table_origin import preprocess_of
        from edgeres.system.files import output_file

        changes = o.preprocess_changes(preprocess)
        settings = stage_recipe(
            recipe, {**changes, "data.train": train_data, "quantize.qat.epochs": qat_epochs}
        )
        images, training = None, settings.quantize.qat
        if training is not None:
            images = train_data_of(settings, "quantization-aware training is asked for")
            training, few = fit_qat(training, training_labels(images))
            if few:
                out.note(f"few images: {few}.")
        target = _rule_set(settings.quantize, target)
        rules = rules_of(target, device)
        output = output_file(output, ".onnx", source=onnx)
        try_model(onnx)
        given = CalibrationTable.load(table) if table is not None and table.is_file() else None
        table = table or output.with_suffix(".calibration.json")
        reads_images = images is not None or settings.quantize.needs_images
        # Without a word of it, images become numbers as those of the table did.
        prepared = preprocess_of(given) if given and settings.preprocess is None else None
        if prepared is None and (given is None or settings.preprocess is not None or reads_images):
            prepared = onnx_preprocess(settings, onnx)
        if settings.quantize.equalize:
            equalized = output.with_suffix(".equalized.onnx")
            equalize(onnx, equalized)
            onnx = equalized
        _make_ready(
            out,
            table,
            given,
            onnx=onnx,
            data=data,
            preprocess=prepared,
            settings=settings.quantize,
        )
        trained = None
        if images is not None and training is not None and prepared is not None:
            trained = output.with_suffix(".trained.safetensors")
            with out.listener() as listener:
                qat(
                    onnx,
                    table,
                    trained,
                    rules=rules,
                    settings=settings.quantize,
                    training=training,
                    train_data=images,
                    preprocess=prepared,
                    work=output.with_name(f"{output.stem}.qat"),
                    progress=listener.bar("quantization-aware training"),
                )
        result = run(
            onnx,
            table,
            output,
            rules=rules,
            settings=settings.quantize,
            data=data,
            preprocess=prepared,
            trained=trained,
        )
        out.result(
            {"onnx": str(output), "table": str(table), **result.to_dict()},
            f"{output}: {len(result.quantized_nodes)} nodes quantized for {target}",
        )


def _make_ready(
    out: Screen,
    table: Path,
    given: CalibrationTable | None,
    *,
    onnx: Path,
    data: str,
    preprocess: Preprocess | None,
    settings: QuantizeBlock,
) -> None:
    """Checks the table that was given by name, or sees to it that one of this model lies there."""
    from edgeres.data.source import open_dataset
    from edgeres.stages.int8 import calibrate
    from edgeres.stages.table_origin import check_table, kept_table

    images, calibrator = open_dataset(data, split="calibration"), settings.calibrator
    if given is not None:
        check_table(given, table, onnx, images=images, preprocess=preprocess, calibrator=calibrator)
        return
    assert preprocess is not None
    kept, why = kept_table(table, onnx, images, preprocess, calibrator)
    if why:
        out.note(f"{table} is not used but made anew: {why}.")
    if kept is None:
        with out.listener() as listener:
            calibrate(
                onnx,
                table,
                data=data,
                samples=None,
                preprocess=preprocess,
                calibrator=calibrator,
                progress=listener.bar("calibrate"),
            )


def _rule_set(settings: QuantizeBlock, target: str | None) -> str:
    """Whose rules a file is quantized by; refuses what cannot be had without an engine."""
    from edgeres.backends.portable import PORTABLE
    from edgeres.errors import UsageError

    if settings.precision == "fp32":
        raise UsageError(
            "the recipe says `quantize: {precision: fp32}`, so there is nothing to quantize.",
            hint="Use `edgeres build` on the FP32 model, or leave `precision:` out.",
        )
    if settings.mixed_precision is not None:
        raise UsageError(
            "the recipe's `quantize: {mixed_precision: ...}` is searched on built engines, which "
            "this command does not make.",
            hint="Use `edgeres convert`, or leave the block out.",
        )
    if settings.portable and target not in (None, PORTABLE):
        raise UsageError(
            f"the recipe says `portable: true` and --target says {target!r}.",
            hint="Leave one of them out.",
        )
    if settings.portable:
        return PORTABLE
    if target is None:
        raise UsageError("no target is named.", hint="Give --target, e.g. --target onnxruntime.")
    return target
