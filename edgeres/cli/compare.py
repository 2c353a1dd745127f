"""The command that compares two models layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeres.cli import options as o
from edgeres.cli.screen import screen

Model = Annotated[Path, typer.Argument(help="FP32 or Q/DQ ONNX file, or a built engine.")]


@o.takes_preprocess
def compare(
    a: Model,
    b: Model,
    data: Annotated[str, typer.Option(help="Images, as for convert.")] = "fashion-mnist",
    samples: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 32,
    source: Annotated[
        list[Path] | None,
        typer.Option(help="ONNX file that an engine was built from, if not beside it."),
    ] = None,
    threads: o.Threads = None,
    *,
    preprocess: o.PreprocessOptions,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Compare two models or engines layer by layer: B against A, and an engine with its source."""
    with screen(as_json=as_json, debug=debug) as out:
        from edgeres.data.kinds import only_features
        from edgeres.data.sampling import take
        from edgeres.data.source import open_dataset
        from edgeres.evaluation.layerwise import compare as run
        from edgeres.evaluation.run_preprocess import run_preprocess
        from edgeres.report.compare_table import layers_table

        images = open_dataset(data, split="validation")
        with out.listener() as listener:
            comparison = run(
                a,
                b,
                take(images, min(samples, len(images))),
                run_preprocess(
                    [b, a], o.preprocess_fields(preprocess), features=lambda: only_features(images)
                ),
                sources=source or (),
                threads=threads,
                isolate=True,
                progress=listener.bar("compare"),
            )
        out.result(comparison.to_dict(), layers_table(comparison))
