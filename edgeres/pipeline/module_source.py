"""The first stage of a run for a network that comes as a torch module: it is written as ONNX first.

What torch's exporter gives is kept beside the normal form, for the comparison on real images.
"""

from __future__ import annotations

from pathlib import Path

from edgeres.errors import ModelError
from edgeres.evaluation import run_folder
from edgeres.modules.bring import bring_module
from edgeres.modules.spec import ModuleSpec
from edgeres.pipeline.find_source import Source
from edgeres.pipeline.source import FACTS, TRACED, ModelFacts, import_file, named
from edgeres.recipe.preprocess import PreprocessBlock


def load_module_source(
    source: Source, folder: Path, *, block: PreprocessBlock | None, image: tuple[int, int]
) -> None:
    """Writes a module as ONNX, brings that into the normal form, and says what is known of it.

    Args:
        source: The module.
        folder: Where the files go.
        block: What the recipe says of the preprocessing.
        image: Height and width of an image before preprocessing.

    Raises:
        EdgeResError: As :func:`edgeres.modules.bring.bring_module` and
            :func:`edgeres.exporting.import_onnx.import_onnx`.
    """
    spec = module_of(source)
    brought = bring_module(
        spec,
        folder / TRACED,
        said=said_fields(block),
        image=image,
        input_size=source.input_size,
        every=not source.classes,
    )
    imported = import_file(
        folder / TRACED,
        folder / run_folder.MODEL,
        layout=brought.layout,
        outputs=source.outputs,
        classes=source.classes,
    )
    classes = max(2, imported.num_classes) if source.classes else 0
    if source.classes and source.num_classes is not None and source.num_classes != classes:
        raise ModelError(
            f"{spec.shown} has {classes} classes where {source.num_classes} were expected.",
            hint="Correct the class count, or the code that makes the network.",
        )
    # That torch's exporter wrote an older opset is nothing that a person chose.
    notes = [note for note in imported.notes if not note.startswith("opset ")]
    ModelFacts(
        name=source.name,
        num_classes=classes,
        in_channels=imported.in_channels,
        preprocess=brought.preprocess,
        class_names=named(source.labels, imported.num_classes),
        notes=(*brought.notes, *notes),
        layout=imported.layout,
    ).save(folder / FACTS)


def said_fields(block: PreprocessBlock | None) -> dict[str, object]:
    """What the recipe says of the preprocessing, by field."""
    return {} if block is None else block.said()


def module_of(source: Source) -> ModuleSpec:
    """What a source of the kind ``module`` is made from."""
    assert source.module is not None
    return source.module
