"""What became of a foreign file that stored or computed in other numbers than float32.

The float32 form is compared with the file as it came wherever ONNX Runtime can run that one; how
near they are is told. Half precision errs by a thousandth itself, so the limit is wider.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from edgeres.errors import ModelError, StageError
from edgeres.exporting.one_precision import WHOLE_NUMBERS
from edgeres.exporting.original import Original, expose
from edgeres.exporting.parity import Tolerance, check_parity

_LIMITS = {"float16": 0.05, "bfloat16": 0.3, "double": 2e-4}


def image_of(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input of a model that is no default of an initializer."""
    weights = {tensor.name for tensor in model.graph.initializer}
    images: list[onnx.ValueInfoProto] = [v for v in model.graph.input if v.name not in weights]
    return images[0]


def takes_whole_numbers(model: onnx.ModelProto) -> bool:
    """Whether the one image input of a model is of an integer type."""
    return image_of(model).type.tensor_type.elem_type in WHOLE_NUMBERS


def told_parity(
    original: onnx.ModelProto,
    content: bytes,
    outputs: Sequence[str],
    sample: Sequence[int],
    batch: int | None,
    precisions: Sequence[str],
) -> list[str]:
    """Compares the written file with the foreign one as it came, where that held other numbers.

    Args:
        original: The foreign model.
        content: The written file.
        outputs: Names of the outputs that were kept.
        sample: Shape of one sample.
        batch: The batch that the foreign model insists on.
        precisions: Float types that the foreign model held, float32 aside.

    Returns:
        What a user should know, in sentences.

    Raises:
        GateError: The two differ by more than those types explain.
    """
    whole = takes_whole_numbers(original)
    notes = ["takes pixels of 0 to 255 as float32; the file took whole numbers"] if whole else []
    if not precisions and not whole:
        return notes
    kinds = " and ".join(precisions) or "whole numbers"
    watched, names = expose(onnx.ModelProto.FromString(content))
    try:
        came = Original(original, outputs, sample, batch)
        report = check_parity(
            lambda images: dict(zip(names, came.run(images), strict=False)),
            watched,
            sample_shape=sample,
            batch_sizes=(1,),
            tolerance=Tolerance(1e-6, max((_LIMITS[kind] for kind in precisions), default=2e-4)),
            whole=whole,
        )
    except (ModelError, StageError) as error:
        return [*notes, f"{kinds} became float32; the file itself does not run here: {error}"]
    if not precisions:
        return notes
    return [
        *notes,
        f"{kinds} became float32; the outputs differ from the file's by at most "
        f"{report.max_rel_error:.1e} of the largest",
    ]
