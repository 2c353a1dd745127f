"""Does pruning pay? The dense network's engine, made to be timed beside the pruned one.

Its answers are never looked at, so its ranges are assumed and it needs no calibration.
"""

from __future__ import annotations

from pathlib import Path

from edgeres.backends.base import Engine
from edgeres.backends.target import Target
from edgeres.evaluation import run_folder
from edgeres.layer_latency.synthetic import assumed_ranges
from edgeres.pipeline.engines import build_engine
from edgeres.pipeline.networks import Networks
from edgeres.pipeline.run import Run
from edgeres.quantization.quantize import quantize
from edgeres.recipe.quantize import QuantizeSettings


def build_unpruned(run: Run, networks: Networks, target: Target) -> Engine | None:
    """The INT8 engine of the dense network; ``None`` where nothing was pruned or stays in float.

    Args:
        run: The run.
        networks: Its networks.
        target: What to build for.

    Raises:
        EdgeResError: As the quantizer and the backend's ``build``.
    """
    if networks.pruned is None or run.recipe.quantize.precision != "int8":
        return None
    dense, settings = networks.dense, QuantizeSettings(bias_correction="off")

    def produce(folder: Path, *_: object) -> None:
        ranges = assumed_ranges(dense.onnx)
        quantize(dense.onnx, ranges, target.rules, folder / run_folder.QDQ, settings)

    name = f"dense, {target.name}"
    qdq = run.stage(
        "quantize_unpruned",
        inputs={"model": dense.sha256},
        settings={"rules": target.rules.to_dict()},
        produce=produce,
        label=f"quantize ({name})",
    ).file(run_folder.QDQ)
    return build_engine(run, qdq, target, target.config, label=f"build ({name})")
