"""One verdict of each kind in every task: equal engines, planted faults, and sets that are small.

The reference network with an output for every task is quantized once; a fault is planted in one
layer's scale, as a broken kernel or a wrong export would do it, or in the mean of the images.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeres.backends.base import BuildConfig
from edgeres.backends.fit import executable_backend
from edgeres.backends.sidecar import read_engine
from edgeres.data.preprocess import Preprocess
from edgeres.data.source import open_dataset
from edgeres.evaluation.answer_set import answer_set
from edgeres.evaluation.judge import judge
from edgeres.evaluation.validate import validate
from edgeres.recipe.gates import Limits
from edgeres.stages.network import build
from edgeres.tasks import open_tasks
from edgeres.tasks.answers import Answers

from .conftest import invoke
from .many_outputs import with_outputs, write_images

pytestmark = pytest.mark.any_cpu("verdicts are those of the answers, whichever CPU gave them")

SAMPLES = 400
GREY = Preprocess(mean=(0.286,), std=(0.353,), channels=1)
LAYER, FACTOR = "layer2.1.conv1", 32
HEADS = {
    "classification": {"name": "classification", "output": "logits", "target": "label"},
    "regression": {
        "name": "regression", "output": "shares", "target": "number",
        "expected_value": [0, 9], "unit": "classes",
    },
    "embedding": {
        "name": "embedding", "output": "features", "target": "label", "false_accepts": 0.01,
    },
    "segmentation": {"name": "segmentation", "output": "map", "target": "mask"},
    "binary": {"name": "binary", "output": "footwear", "target": "footwear"},
    "multilabel": {"name": "multilabel", "output": "groups", "target": "groups"},
}  # fmt: skip
SCORE = """\
import numpy as np

def margin(outputs, targets):
    logits = outputs["logits"]
    rows = np.arange(len(logits))
    return logits[rows, targets["label"].astype(int)] - logits.mean(axis=1)
"""
#: Loss that is allowed where the engine is good, in the unit of the task's gated metric.
ALLOWED = {
    "classification": 3, "regression": 0.1, "embedding": 6, "segmentation": 3,
    "binary": 2, "multilabel": 3, "heads": 3, "custom": 0.2,
}  # fmt: skip
#: How near in dB the outputs must be, where no loss says it: 400 equal answers prove so much.
NEAR = 12
TASKS = {
    **{name: [block] for name, block in HEADS.items()},
    "outputs": [{"name": "outputs"}],
    "embedding without labels": [
        {"name": "embedding", "output": "features", "labelled": False}
    ],
    "heads": [HEADS["classification"], HEADS["multilabel"]],
    "custom": [{"name": "custom", "function": "score.py:margin"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `convert` on the network with all heads."""
    folder = tmp_path_factory.mktemp("every")
    network = with_outputs(workplace / "out" / "baseline" / "model.onnx", groups=True)
    onnx.save(network, folder / "net.onnx")
    write_images(folder, SAMPLES)
    (folder / "score.py").write_text(SCORE)
    heads = "\n".join(f"  - {block}" for block in HEADS.values()).replace("False", "false")
    (folder / "recipe.yaml").write_text(
        f"name: every\nmodel: {{source: net.onnx}}\npreprocess: {{mean: [{GREY.mean[0]}], "
        f"std: [{GREY.std[0]}], channels: 1}}\ntask:\n{heads}\n"
        'data: {validation: "list:every.csv", calibration: "npz:images.npz", '
        "calibration_samples: 64}\ntargets: [onnxruntime]\n"
        "gates: {metric: [logits.top1], max_drop: 5}\n"
        "benchmark: {seconds: 0.1, threads: 1}\n"
    )
    result = invoke("convert", folder / "recipe.yaml", "--output", folder / "out", "--json")
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def planted(run: Path) -> Path:
    """The engine of that run with the scale of one layer's weights 32 times what it should be."""
    bad = run / "bad"
    shutil.copytree(run / "out" / "baseline", bad / "baseline")
    model = onnx.load(run / "out" / "onnxruntime" / "model.qdq.onnx")
    for scale in model.graph.initializer:
        if scale.name in (f"{LAYER}.weight_scale", f"{LAYER}.bias_scale"):
            larger = numpy_helper.to_array(scale) * np.float32(FACTOR)
            scale.CopyFrom(numpy_helper.from_array(larger, scale.name))
    (bad / "onnxruntime").mkdir()
    onnx.save(model, bad / "onnxruntime" / "model.qdq.onnx")
    return build(
        bad / "onnxruntime" / "model.qdq.onnx",
        bad / "onnxruntime" / "model",
        target="onnxruntime",
        threads=1,
    ).path


def the_task(run: Path, name: str):
    said = [dict(block) for block in TASKS[name]]
    for block in said:
        if "function" in block:
            block["function"] = str(run / block["function"])
    return open_tasks(said)


@pytest.fixture(scope="module")
def fp32(run: Path):
    """``fp32(name)``: what the float network answers in a task."""
    engine = read_engine(
        build(run / "out/baseline/model.onnx", run / "fp32", target="onnxruntime", threads=1).path
    )
    known: dict[str, Answers] = {}

    def answers(name: str) -> Answers:
        if name not in known:
            with executable_backend(engine).load(engine, BuildConfig(threads=1)) as runner:
                known[name] = answer_set(
                    runner, the_set(run), GREY, the_task(run, name), name="FP32",
                    model_sha256=engine.source_sha256,
                )  # fmt: skip
        return known[name]

    return answers


def the_set(run: Path):
    return open_dataset(f"list:{run / 'every.csv'}", split="validation")


def limits_of(name: str) -> Limits:
    if name == "outputs":
        return Limits(floor={f"{block['output']}.sqnr_db": NEAR for block in HEADS.values()})
    return Limits(max_drop=ALLOWED.get(name))


def judged(run: Path, fp32, name: str, engine: Path, preprocess=GREY, samples: int = SAMPLES):
    baseline = fp32(name)
    return validate(
        engine,
        the_set(run).subset(range(samples)),
        preprocess,
        task=the_task(run, name),
        baseline=baseline,
        limits=limits_of(name),
        explain=True,
        threads=1,
    )


@pytest.mark.parametrize("name", TASKS)
def test_a_good_engine_passes(run, fp32, name: str) -> None:
    found = judged(run, fp32, name, run / "out/onnxruntime/model.onnx")
    assert found.verdict.outcome == "pass", found.verdict.reason


@pytest.mark.parametrize("name", TASKS)
def test_an_equal_engine_passes_and_a_few_samples_tell_nothing(run, fp32, name: str) -> None:
    whole = fp32(name)
    limits = limits_of(name)
    task = the_task(run, name)
    for check in judge(task, whole, whole, limits).checks:
        assert check.outcome == "pass", check.reason
    rows = {key: row[:30] for key, row in whole.rows.items()}
    few = Answers(rows, sketches=None if whole.sketches is None else whole.sketches[:30])
    for check in judge(task, few, few, limits).checks:
        assert check.outcome == "inconclusive", check.reason
        assert check.samples_to_decide > 30


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_scale_fails_and_the_layer_is_named(run, fp32, planted, name: str) -> None:
    found = judged(run, fp32, name, planted)
    assert found.verdict.outcome == "fail", found.verdict.reason
    assert found.explanation.startswith(f"{LAYER} alone leaves")
    assert "its weights are 32.00 times those of the reference" in found.explanation


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_mean_fails_and_is_explained(run, fp32, name: str) -> None:
    dark = Preprocess(mean=(1.2,), std=GREY.std, channels=1)
    found = judged(run, fp32, name, run / "out/onnxruntime/model.onnx", dark)
    assert found.verdict.outcome == "fail", found.verdict.reason
    assert "mean is [1.2] here and [0.286]" in found.explanation
