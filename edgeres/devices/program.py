"""What a device runs: ``python3 edgeres.pyz benchmark REQUEST`` or ``... answer REQUEST``.

A request is JSON, and so is what is printed: a result, or an error as the command line prints it
with ``--json``, on a line that :mod:`edgeres.devices.framing` marks. Nothing but NumPy, Pillow,
psutil and the engine's runtime is imported.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeres.devices.framing import framed
from edgeres.errors import EdgeResError


def benchmark(request: Mapping[str, Any]) -> int:
    """Measures engines and prints what ``edgeres benchmark --json`` prints.

    Args:
        request: ``engines`` (paths), ``batch_size``, ``threads``, ``seconds`` and ``sustained_s``.

    Raises:
        EdgeResError: As :func:`edgeres.benchmarking.benchmark.benchmark`.
    """
    from edgeres.benchmarking.benchmark import benchmark as run
    from edgeres.benchmarking.latency import MeasureSettings
    from edgeres.benchmarking.meters import find_meter

    found = run(
        [Path(path) for path in request["engines"]],
        batch_size=request["batch_size"],
        threads=request["threads"],
        settings=MeasureSettings(seconds=request["seconds"]),
        memory=True,
        sustained_s=request["sustained_s"],
        meter=find_meter(),
        isolate=True,
    )
    print(framed(found.to_dict()))
    return found.exit_code


def answer(request: Mapping[str, Any]) -> int:
    """Runs an engine over packed images and writes its predictions.

    Args:
        request: ``engine``, ``images``, ``answers`` (paths), ``threads`` and ``raw``.

    Raises:
        EdgeResError: As :func:`edgeres.devices.answer.answer`.
    """
    from edgeres.devices.answer import answer as run

    run(
        Path(request["engine"]),
        Path(request["images"]),
        Path(request["answers"]),
        request["threads"],
        raw=request["raw"],
    )
    return 0


def main(arguments: Sequence[str]) -> int:
    """Does what is asked and returns the exit code."""
    work = {"benchmark": benchmark, "answer": answer}
    try:
        name, request = arguments
        return work[name](json.loads(request))
    except EdgeResError as error:
        content = {"id": error.error_id, "message": error.message, "hint": error.hint}
        print(framed({"error": {**content, "exit_code": error.exit_code}}))
        return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
