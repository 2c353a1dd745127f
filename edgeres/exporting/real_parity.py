"""The parity gate of an import on real images: noise alone does not reach every fault.

A limit that a pass lost, a dead range or an activation that only large inputs drive shows on the
images that the network was made for, and on random numbers it may not. They are there only after
the import, with the preprocessing, so the two files are compared once more.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner

from edgeres.errors import GateError, ModelError
from edgeres.exporting.file_order import put_in_order
from edgeres.exporting.foreign_checks import check_operators
from edgeres.exporting.import_onnx import MEMORY_BYTES, SECONDS
from edgeres.exporting.one_precision import in_float32
from edgeres.exporting.original import Original, expose
from edgeres.exporting.parity import BATCH_SIZES, F32, check_parity
from edgeres.exporting.precision_parity import image_of, takes_whole_numbers
from edgeres.exporting.remove_scales import remove_scales
from edgeres.exporting.static_branches import without_branches
from edgeres.graph.external_data import load_self_contained
from edgeres.system.child import JsonValue, run_limited

IMAGES = sum(BATCH_SIZES)
"""Real images that are compared: one batch of each size."""


def check_real_images(source: Path, normalized: Path, images: F32) -> dict[str, JsonValue]:
    """Compares an imported file with the foreign one on real images, in a child process.

    Args:
        source: The foreign file.
        normalized: What :func:`edgeres.exporting.import_onnx.import_onnx` made of it.
        images: Preprocessed images ``(M, *sample_shape) float32``; the first :data:`IMAGES` count.

    Returns:
        The fields of :class:`edgeres.exporting.parity.ParityReport`; empty where the images are not
        of the size that the network takes, which is told where all of them are read.

    Raises:
        GateError: The two answer differently.
        ModelError: The foreign file gives NaN or infinity for an image, or takes whole numbers and
            the preprocessing gives others.
        StageError: A limit was hit, or the child crashed.
    """
    compare = run_limited(compare_files, seconds=SECONDS, memory_bytes=MEMORY_BYTES)
    return compare(source, normalized, images[:IMAGES].astype(np.float32, copy=False))


def compare_files(source: Path, normalized: Path, images: F32) -> dict[str, JsonValue]:
    """What the child of :func:`check_real_images` does."""
    original = put_in_order(load_self_contained(source, max_bytes=MEMORY_BYTES // 4))
    if original.functions:
        original = onnx.inliner.inline_local_functions(original)
    original = remove_scales(original)  # where they were, they were to be removed
    made = onnx.load(normalized)
    sample = tuple(dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim[1:])
    original = without_branches(original, _sides(original, sample))
    check_operators(original)  # which also gives the operators the one name of their domain
    whole = takes_whole_numbers(original)
    original, _ = in_float32(original)
    if images.shape[1:] != sample:
        return {}
    if whole and not (
        np.array_equal(images, np.rint(images)) and 0 <= images.min() <= images.max() < 256
    ):
        raise ModelError(
            f"The network takes whole numbers, pixels of 0 to 255; the preprocessing gives "
            f"{images.min():.4g} to {images.max():.4g}.",
            hint="It normalizes inside: say --scale 1 --mean 0 --std 1, or leave them out.",
        )
    fed = image_of(original)
    batch = fed.type.tensor_type.shape.dim[0].dim_value or None
    watched, names = expose(made)
    reference = Original(original, [value.name for value in made.graph.output], sample, batch)
    free = not made.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")
    sizes = [size for size in BATCH_SIZES if size <= len(images)] if free else [1]
    try:
        report = check_parity(
            lambda batch: dict(zip(names, reference.run(batch), strict=False)),
            watched,
            sample_shape=sample,
            batch_sizes=sizes,
            images=images,
        )
    except GateError as error:
        raise GateError(
            error.message,
            hint="The import changed what the network computes on these images; nothing was "
            "converted. Export the model again with another opset, and report it.",
        ) from error
    return {**asdict(report), "batch_sizes": list(report.batch_sizes)}


def _sides(model: onnx.ModelProto, sample: tuple[int, ...]) -> list[int]:
    """The sizes of a sample that its file leaves open."""
    dims = image_of(model).type.tensor_type.shape.dim[1:]
    return [size for dim, size in zip(dims, sample, strict=True) if not dim.dim_value]
