"""Builds a plan in a process of its own, so that equal work gives equal bytes.

TensorRT for RTX orders parts of a plan for a range of shapes by where the compiler's objects lie in
memory. So it works in a steady child process (:mod:`edgeres.system.steady_child`), on a file that
always has the same name. A crash of the compiler, and Ctrl-C, end that child and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeres.backends.base import ShapeRange
from edgeres.backends.sidecar import shapes_from_json, shapes_to_json
from edgeres.backends.tensorrt.api import Flavor, Trt, load_trt
from edgeres.backends.tensorrt.build import BuiltPlan, build_plan
from edgeres.backends.tensorrt.cuda import on_gpu
from edgeres.backends.tensorrt.options import TensorRTOptions
from edgeres.system.files import disk_errors
from edgeres.system.progress import ProgressCallback
from edgeres.system.steady_child import addresses_are_fixed, in_own_arena, run_steady
from edgeres.system.temporary import temporary_folder

ADDRESSES_VARY = (
    "This system does not let a process turn address randomization off, so the bytes of the plan "
    "may differ from those of another build."
)
_MODEL = "model.onnx"


def build_alone(
    trt: Trt,
    onnx: Path,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
    *,
    beside: Iterable[str],
    plan: Path,
    half: bool,
    ordinal: int | None,
    progress: ProgressCallback | None,
) -> BuiltPlan:
    """As :func:`edgeres.backends.tensorrt.build.build_plan`, in a child process.

    Args:
        trt: The imported TensorRT.
        onnx: The linted file.
        options: Checked options.
        shapes: Shape range by input name.
        beside: Names of the files beside ``onnx`` that hold its external data.
        plan: Where the plan goes.
        half: The graph holds float16 tensors.
        ordinal: The GPU to build on; ``None`` to build without one.
        progress: Called with (done, known) steps of the build where TensorRT reports them.

    Raises:
        EdgeResError: What the build raised.
        StageError: The child crashed.
        StorageError: The disk is full or the folder cannot be written.
    """
    if options.timing_cache is not None:
        options = replace(options, timing_cache=options.timing_cache.absolute())
    with temporary_folder() as work:  # its path's length counts, so not beside the plan
        (work / _MODEL).symlink_to(onnx.absolute())
        for data in beside:
            (work / data).symlink_to((onnx.parent / data).absolute())
        build = run_steady(
            build_here,
            folder=work,
            what=f"the build of {onnx} by {trt.title}",
            progress=progress,
        )
        told = build(
            trt.flavor,
            plan.absolute(),
            str(onnx),
            replace(options, runtime_cache=None),  # which is for running
            shapes,
            half=half,
            ordinal=ordinal,
        )
    return BuiltPlan(
        plan.read_bytes(),
        tuple(told["layer_log"]),
        tuple(told["warnings"]),
        shapes_from_json(told["shapes"]),
        tuple(told["batches"]),
        tuple(told["notes"]),
    )


def build_here(
    progress: ProgressCallback,
    flavor: Flavor,
    plan: Path,
    shown: str,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
    *,
    half: bool,
    ordinal: int | None,
) -> dict[str, Any]:
    """What the child does: ``model.onnx`` in the current folder becomes ``plan``.

    TensorRT builds on the GPU whose context is current in the thread that asks it to.
    """
    trt = load_trt(flavor)

    def build() -> BuiltPlan:
        with nullcontext() if ordinal is None else on_gpu(ordinal):
            return build_plan(
                trt,
                Path(_MODEL),
                options,
                shapes,
                half=half,
                shown=shown,
                progress=progress,
            )

    built = in_own_arena(build)  # loading TensorRT has left traces of sys.path in this thread's
    with disk_errors(plan):
        plan.write_bytes(built.plan)
    warnings = list(built.warnings)
    ranged = any(sizes.min != sizes.max for sizes in built.shapes.values())
    if trt.is_rtx and ranged and not addresses_are_fixed():
        warnings.append(ADDRESSES_VARY)
    return {
        "layer_log": list(built.layer_log),
        "warnings": warnings,
        "shapes": shapes_to_json(built.shapes),
        "batches": list(built.batches),
        "notes": list(built.notes),
    }
