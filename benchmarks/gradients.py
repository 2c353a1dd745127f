"""Which convolutions have wrong gradients on this CPU, by memory layout and element type.

    python benchmarks/gradients.py --out benchmarks/results/gradients.json

Output, input gradient and weight gradient of small convolutions against float64, as a training
tries them (`edgeres/training/gradient_check.py`): kernels of one and three pixels, strides,
dilation, groups, depthwise, maps from one pixel on, channel counts that fill the CPU's registers
and that do not; in float32 and bfloat16, channels last and first, with all that the CPU has and as
one with AVX2 (`ATEN_CPU_CAPABILITY`, `ONEDNN_MAX_CPU_ISA`). The fault that this looks for can hang
a process or damage its memory, so all run in child processes: one that ends too early is started
again behind the shape at which it stopped, and a wrong shape is tried once more in a child of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edgeres.system.environment import describe_environment
from edgeres.training.gradient_check import LIMITS, ConvShape, LayoutName, gradient_error
from edgeres.training.layout import has_wrong_gradients

ISAS = {
    "all": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
INPUTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 32, 33)
OUTPUTS = (1, 3, 8, 16, 20)
SIZES = (1, 2, 3, 7, 14)
#: Kernel, stride, dilation.
KINDS = ((1, 1, 1), (1, 2, 1), (1, 3, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 2, 2), (5, 2, 1))
CHILD_S, THREADS = 300.0, 1
CONFIRMED = 24
"""Shapes of a setting that are tried again, one child each."""

CHILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); import gradients; gradients.child(sys.argv[2:])"
)


def shapes() -> Iterator[ConvShape]:
    """All that are tried, each once."""
    for kernel, stride, dilation in KINDS:
        pad = dilation * (kernel // 2)
        pairs = ((kernel, kernel), (stride, stride), (pad, pad), (dilation, dilation))
        for size in SIZES:
            for inputs in INPUTS:
                for outputs in OUTPUTS:
                    for groups in (1, 2, 4):
                        if inputs % groups == outputs % groups == 0:
                            yield ConvShape(*pairs, groups, inputs, outputs, (size, size))
                if inputs > 1:
                    yield ConvShape(*pairs, inputs, inputs, inputs, (size, size))


def child(arguments: list[str]) -> None:
    """Tries the shapes from a place on; a line for each, so that a crash tells where it was."""
    layout, dtype, start, stop = arguments
    torch.set_num_threads(THREADS)
    for index, shape in list(enumerate(shapes()))[int(start) : int(stop)]:
        error = gradient_error(shape, layout_of(layout), dtype)
        print(json.dumps([index, min(error, 1e9)]), flush=True)


def layout_of(name: str) -> LayoutName:
    """The name of a layout, checked."""
    return "channels_last" if name == "channels_last" else "channels_first"


def tried(isa: str, layout: str, dtype: str, start: int, stop: int) -> dict[int, float]:
    """Errors by place; infinity where the child crashed or hung."""
    found: dict[int, float] = {}
    while start < stop:
        command = [sys.executable, "-c", CHILD, str(Path(__file__).parent)]
        process = subprocess.Popen(
            [*command, layout, dtype, str(start), str(stop)],
            env={**os.environ, **ISAS[isa]},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            told, _ = process.communicate(timeout=CHILD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
        for line in told.splitlines():
            index, error = json.loads(line)
            found[index] = error
            start = index + 1
        if start < stop:
            found[start] = float("inf")
            start += 1
    return found


def setting(isa: str, layout: str, dtype: str) -> dict[str, Any]:
    """What was wrong in one layout and type."""
    every = list(shapes())
    begun = time.monotonic()
    found = tried(isa, layout, dtype, 0, len(every))
    suspects = [index for index, error in found.items() if not error <= LIMITS[dtype]]
    known = [index for index in suspects if has_wrong_gradients(every[index])]
    others = [index for index in suspects if index not in set(known)]
    alone = {
        index: tried(isa, layout, dtype, index, index + 1)[index]
        for index in (*others[:CONFIRMED], *known[:: max(1, len(known) // 3)][:3])
    }
    confirmed = [i for i in others if not alone.get(i, 1e9) <= LIMITS[dtype]]
    right = [error for index, error in found.items() if index not in set(suspects)]
    return {
        "shapes": len(every),
        "seconds": time.monotonic() - begun,
        "largest_right_error": max(right),
        "known_kind_wrong": len(known),
        "known_kind_tried": sum(map(has_wrong_gradients, every)),
        "known_kind_wrong_alone": sum(not alone[i] <= LIMITS[dtype] for i in known if i in alone),
        "child_ended_at": [str(every[i]) for i, error in found.items() if error == float("inf")],
        "other_suspects": len(others),
        "other_wrong": len(confirmed),
        "other_wrong_by_kind": dict(Counter(_kind(every[i]) for i in confirmed)),
        "other_wrong_shapes": [
            {**asdict(every[i]), "error": found[i], "alone": alone.get(i)} for i in confirmed[:40]
        ],
    }


def _kind(shape: ConvShape) -> str:
    kind = "depthwise" if shape.groups == shape.inputs > 1 else f"{shape.groups} groups"
    return f"{shape.kernel[0]}x{shape.kernel[0]} stride {shape.stride[0]} {kind}"


def main() -> None:
    """Parses arguments, measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    rows: dict[str, Any] = {}
    for isa in reversed(ISAS):
        for dtype in ("float32", "bfloat16"):
            for layout in ("channels_last", "channels_first"):
                name = f"{isa} {dtype} {layout}"
                rows[name] = setting(isa, layout, dtype)
                print(name, json.dumps(rows[name])[:400], flush=True)
                if out:
                    out.write_text(told(rows))


def told(rows: dict[str, Any]) -> str:
    """The JSON of the settings that are done."""
    found = {
        "environment": describe_environment().to_dict(),
        "torch": torch.__version__,
        "limits": LIMITS,
        "settings": rows,
    }
    return json.dumps(found, indent=1).replace("Infinity", '"crash"') + "\n"


if __name__ == "__main__":
    main()
