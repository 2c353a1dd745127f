"""The first stage of a run: the trained network, of whatever kind, in edgeres' form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from edgeres.data.bad_images import first_image
from edgeres.data.kinds import are_features
from edgeres.data.preprocess import Preprocess
from edgeres.data.sampling import some_images
from edgeres.data.types import Dataset
from edgeres.pipeline.find_source import Source
from edgeres.pipeline.module_source import load_module_source, said_fields
from edgeres.pipeline.run import Run
from edgeres.pipeline.source import load_source
from edgeres.recipe.recipe import Recipe
from edgeres.system.environment import package_versions
from edgeres.system.files import file_sha256
from edgeres.system.store import StageResult

PARITY = "parity.json"
PARITY_IMAGES = 10
"""Real images on which an imported or exported file is compared with its source."""


def load_network(run: Run, source: Source, validation: Dataset) -> StageResult:
    """The stage that brings the network into edgeres' form.

    Args:
        run: The run.
        source: The network.
        validation: Its first image tells the size that the network sees.

    Raises:
        EdgeResError: The network cannot be used.
    """
    recipe = run.recipe
    inputs = {"model": source.sha256, **source.beside}
    if source.kind == "module":
        sample = first_image(validation)
        image = (sample.height, sample.width)
        return run.stage(
            "load",
            inputs=inputs,
            settings={
                **source.settings(),
                "name": source.name,
                "said": said_fields(recipe.preprocess),
                "image": list(image),
                "versions": package_versions(("torch", "onnxscript", "keras")),
            },
            produce=lambda folder, *_: load_module_source(
                source, folder, block=recipe.preprocess, image=image
            ),
        )
    layout, seen_size = _said_of_images(recipe, source, validation)
    return run.stage(
        "load",
        inputs=inputs,
        settings={
            **source.settings(),
            "layout": layout,
            "name": source.name if source.kind == "onnx" else None,
            **({"seen_size": list(seen_size)} if seen_size is not None else {}),
        },
        produce=lambda folder, *_: load_source(source, folder, layout=layout, seen_size=seen_size),
    )


def _said_of_images(
    recipe: Recipe, source: Source, validation: Dataset
) -> tuple[Literal["nchw", "nhwc"] | None, tuple[int, int] | None]:
    """Layout of an ONNX file's input as the recipe says it, and the size of what it will see.

    A file may leave its height and width open; then they are those of the first image, as the
    preprocessing makes it.
    """
    if source.kind != "onnx":
        return None, None
    block = recipe.preprocess
    layout = block.layout if block is not None and "layout" in block.said() else None
    if source.input_size is not None:
        return layout, None
    sample = first_image(validation)
    if are_features(validation):
        return layout, (sample.height, sample.width)
    preprocess = Preprocess() if block is None else block.complete()
    return layout, preprocess.output_size(sample.height, sample.width)


def compare_with_source(
    run: Run,
    source: Source,
    original: Path,
    onnx: Path,
    validation: Dataset,
    preprocess: Preprocess,
) -> None:
    """The parity gate of an imported file on images of the validation set.

    Args:
        run: The run.
        source: The network.
        original: The file that was imported.
        onnx: What it became.
        validation: Where the images are from.
        preprocess: How an image becomes numbers.

    Raises:
        GateError: The two answer differently.
    """

    def produce(folder: Path, *_: object) -> None:
        from edgeres.exporting.real_parity import check_real_images

        images = some_images(validation, preprocess, PARITY_IMAGES)
        distances = {} if images is None else check_real_images(original, onnx, images)
        (folder / PARITY).write_text(json.dumps(distances, indent=1))

    run.stage(
        "parity",
        inputs={
            "model": source.sha256,
            **source.beside,
            "onnx": file_sha256(onnx),
            "data": validation.fingerprint,
        },
        settings={"preprocess": preprocess.to_dict(), "images": PARITY_IMAGES},
        produce=produce,
        label="compare with the source",
    )
