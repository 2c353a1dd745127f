"""Builds a plan in a process of its own, so that equal work gives equal bytes.

TensorRT for RTX orders parts of a plan for a range of shapes by where the compiler's objects lie in
memory. So it works in a steady child process (:mod:`edgeres.steady_child`), on a file that always
has the same name. A crash of the compiler, and Ctrl-C, end that child and nothing else.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from edgeres.backends._tensorrt_api import Flavor, Trt, load_trt
from edgeres.backends._tensorrt_build import BuiltPlan, build_plan
from edgeres.backends._tensorrt_options import TensorRTOptions
from edgeres.backends.base import ShapeRange
from edgeres.backends.sidecar import shapes_from_json, shapes_to_json
from edgeres.child import JsonValue
from edgeres.files import disk_errors
from edgeres.steady_child import run_steady

_MODEL, _PLAN = "model.onnx", "model.plan"


def build_alone(
    trt: Trt,
    onnx: Path,
    options: TensorRTOptions,
    shapes: Mapping[str, ShapeRange],
    *,
    beside: Iterable[str],
    folder: Path,
    half: bool,
    progress: Callable[[int, int], None] | None,
) -> BuiltPlan:
    """As :func:`edgeres.backends._tensorrt_build.build_plan`, in a child process.

    Args:
        trt: The imported TensorRT.
        onnx: The linted file.
        options: Checked options.
        shapes: Shape range by input name.
        beside: Names of the files beside ``onnx`` that hold its external data.
        folder: Where a temporary folder may be made.
        half: The graph holds float16 tensors.
        progress: Called with (done, known) steps of the build where TensorRT reports them.

    Raises:
        EdgeResError: What the build raised.
        StageError: The child crashed.
        StorageError: The disk is full or the folder cannot be written.
    """
    values = asdict(options)
    if options.timing_cache is not None:
        values["timing_cache"] = str(options.timing_cache.absolute())
    del values["runtime_cache"]  # for running
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        (work / _MODEL).symlink_to(onnx.absolute())
        for data in beside:
            (work / data).symlink_to((onnx.parent / data).absolute())
        told: Any = run_steady(
            f"{__name__}:build_here",
            {
                "flavor": trt.flavor,
                "shown": str(onnx),
                "options": values,
                "shapes": shapes_to_json(shapes),
                "half": half,
            },
            folder=work,
            what=f"the build of {onnx} by {trt.title}",
            progress=progress,
        )
        plan = (work / _PLAN).read_bytes()
    layer_log, warnings = tuple(told["layer_log"]), tuple(told["warnings"])
    return BuiltPlan(plan, layer_log, warnings, shapes_from_json(told["shapes"]))


def build_here(
    flavor: Flavor,
    shown: str,
    options: dict[str, Any],
    shapes: dict[str, list[list[int]]],
    half: bool,
    progress: Callable[[int, int], None],
) -> dict[str, JsonValue]:
    """What the child does: ``model.onnx`` in the current folder becomes ``model.plan``."""
    asked = TensorRTOptions(**options)
    asked = replace(asked, compute_capabilities=tuple(asked.compute_capabilities))
    if asked.timing_cache is not None:
        asked = replace(asked, timing_cache=Path(asked.timing_cache))
    # The profile says what is wrong with a range.
    ranges = {name: ShapeRange(*map(tuple, three)) for name, three in shapes.items()}
    built = build_plan(
        load_trt(flavor),
        Path(_MODEL),
        asked,
        ranges,
        half=half,
        shown=shown,
        progress=progress,
    )
    plan = Path(_PLAN).absolute()
    with disk_errors(plan):
        plan.write_bytes(built.plan)
    return {
        "layer_log": list(built.layer_log),
        "warnings": list(built.warnings),
        "shapes": shapes_to_json(built.shapes),
    }
