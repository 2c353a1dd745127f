"""NVIDIA's command-line tools: all that ``trtexec`` and ``polygraphy`` need on another machine.

``MODEL/build.sh`` builds the plan from the Q/DQ file in the form for the TensorRT that is there,
``MODEL/build_implicit.sh`` another one from the float network and a calibration cache (a DLA before
TensorRT 11 takes INT8 in no other way), ``MODEL/compare.sh`` holds the plan against ONNX Runtime.
Nothing of edgeres is needed there, nor its Python.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from edgeres.backends.base import Engine
from edgeres.backends.serving._model import ServedModel
from edgeres.backends.serving._nvidia import (
    OLD_MODEL,
    PLAN,
    build_script,
    qdq_file,
    script_start,
    write_models,
    write_script,
)
from edgeres.backends.tensorrt.calibration_cache import calibration_cache, with_inner_tensors
from edgeres.backends.tensorrt.commands import compare_commands
from edgeres.backends.tensorrt.form import write_form
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.backends.tensorrt.repair import repair

FLOAT_MODEL, CACHE, IMPLICIT_PLAN = "float.onnx", "calibration.cache", "implicit.plan"
_VERSION = 8601


class Trtexec:
    """See :class:`edgeres.backends.serving.Server`."""

    def refusal(self, engine: Engine) -> str | None:
        """Q/DQ files for other engines are placed otherwise; the flavor does not matter."""
        return None if engine.backend == "tensorrt" else "trtexec builds for tensorrt only."

    def write(self, models: list[ServedModel], folder: Path) -> None:
        """Writes one folder for each model."""
        for model in models:
            place = folder / model.name
            (place / "1").mkdir(parents=True)
            qdq = qdq_file(model)
            write_models(repair(read_graph(qdq), qdq).graph, model, place / "1")
            write_script(place / "build.sh", build_script(model))
            write_script(place / "compare.sh", _compare_script(model))
            if model.network is not None and model.magnitudes:
                network = read_graph(model.network)
                write_form(network, "opset17", place / "1" / FLOAT_MODEL)
                magnitudes = with_inner_tensors(model.magnitudes, network)
                text = calibration_cache(magnitudes, _VERSION)
                (place / "1" / CACHE).write_text(text, encoding="utf-8", newline="\n")
                write_script(place / "build_implicit.sh", _implicit_script(model))


def _batch_shape(model: ServedModel) -> list[int]:
    sizes = model.engine.shapes.get(model.input.name)
    shape = [size or 1 for size in model.input.shape]
    return list(sizes.opt) if sizes else shape


def _compare_script(model: ServedModel) -> str:
    shape = _batch_shape(model)
    values = (-1.0, 1.0)
    if model.preprocess is not None and math.isfinite(model.preprocess.value_range[1]):
        pixels = np.zeros((2, 1, 1), np.uint8)
        pixels[1] = 255
        ends = model.preprocess.normalize(pixels)
        values = (float(ends.min()), float(ends.max()))
    commands = compare_commands(OLD_MODEL, PLAN, model.input.name, shape, values)
    head = (
        "#!/bin/sh\n"
        "# Holds 1/model.plan against ONNX Runtime on the same made-up images, with polygraphy.\n"
        'set -eu\ncd "$(dirname "$0")/1"\n'
    )
    return head + "\n".join(commands) + "\n"


def _implicit_script(model: ServedModel) -> str:
    """Builds with the calibration cache; ``DLA_CORE`` chooses a DLA, ``BATCH`` the batch size."""
    head = script_start(
        "Builds 1/implicit.plan: INT8 by the calibration cache. DLA_CORE=0 builds it for that DLA."
    )
    shapes = ""
    if model.engine.shapes:
        sizes = "x".join(str(size) for size in _batch_shape(model)[1:])
        shape = f'{model.input.name}:"$batch"x{sizes}'
        shapes = " ".join(f"--{kind}Shapes={shape}" for kind in ("min", "opt", "max"))
    return head + "\n".join(
        [
            'if [ "$version" -ge 110000 ]; then',
            '    echo "TensorRT 11 has no implicit INT8: use build.sh" >&2; exit 2',
            "fi",
            "batch=${BATCH:-1}",
            f'sed "1s/.*/TRT-$version-EntropyCalibration2/" {CACHE} > {CACHE}.$version',
            f"set -- --onnx={FLOAT_MODEL} --int8 --fp16 --calib={CACHE}.$version",
            'if [ -n "${DLA_CORE:-}" ]; then',
            '    set -- "$@" --useDLACore="$DLA_CORE" --allowGPUFallback',
            "fi",
            f'exec "$trtexec" "$@" --saveEngine={IMPLICIT_PLAN} {shapes} '
            "--profilingVerbosity=detailed",
            "",
        ]
    )


SERVER = Trtexec()
