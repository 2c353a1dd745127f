"""The pipeline's quantization-aware training: one stage a rule set, before Q/DQ is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgeres.backends.base import QdqRules
from edgeres.data.source import training_fingerprint
from edgeres.pipeline.network import train_data_of
from edgeres.pipeline.networks import Networks
from edgeres.pipeline.run import Run
from edgeres.stages.int8 import qat, summary_path
from edgeres.system.files import file_sha256
from edgeres.system.progress import ProgressCallback
from edgeres.system.stored_json import read_stored
from edgeres.training.summary import QatSummary

LEARNED = "trained.safetensors"
TRAIN_LOG = "train_log.jsonl"


def qat_parameters(run: Run, networks: Networks, table: Path, rules: QdqRules) -> Path | None:
    """What quantization-aware training learned under a rule set, if the recipe asks for it.

    The stage's key leaves the rule set's name out: targets with the same rules share one training.

    Raises:
        UsageError: The recipe names no training images.
        EdgeResError: As :func:`edgeres.stages.int8.qat`.
    """
    network = networks.quantized
    block, training = run.recipe.quantize.part(), run.recipe.quantize.qat
    if training is None:
        return None
    train_data = train_data_of(run.recipe, "`quantize: {qat: ...}` trains")

    names = networks.facts.class_names if run.task is None else ()

    def produce(folder: Path, work: Path, progress: ProgressCallback) -> None:
        qat(
            network.onnx,
            table,
            folder / LEARNED,
            rules=rules,
            settings=block,
            training=training,
            train_data=train_data,
            preprocess=networks.preprocess,
            work=work,
            classes=run.task is None,
            class_names=names,
            progress=progress,
        )
        shutil.copyfile(work / TRAIN_LOG, folder / TRAIN_LOG)

    result = run.stage(
        "qat",
        inputs={
            "model": network.sha256,
            "table": file_sha256(table),
            "train_data": training_fingerprint(train_data, run.hashes),
        },
        settings={
            "rules": {key: value for key, value in rules.to_dict().items() if key != "name"},
            "quantize": block.key(),
            "qat": training.key(),
            "preprocess": networks.preprocess.to_dict(),
            "classes": run.task is None,
            **({"class_names": list(names)} if names else {}),
        },
        produce=produce,
        label=f"quantization-aware training ({rules.name})",
    )
    summary = read_stored(summary_path(result.file(LEARNED)), QatSummary)
    if summary.kept == "start":
        run.warn_once(
            f"quantization-aware training for {rules.name} gained nothing on "
            f"{summary.held_out} held-out images; the calibrated network is kept."
        )
    return result.file(LEARNED)
