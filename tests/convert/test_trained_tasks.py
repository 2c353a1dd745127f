"""Trained networks that give vectors, masks, and two answers, on both CPU engines and as plans.

The fourth is a network over time, fed with features.

`tests/convert/trained` says what made them. Every gate is a real one, on pictures that the networks
have not seen.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeres
from edgeres.stages.network import build

from .conftest import installed, invoke

HERE = Path(__file__).parent
SETS = HERE.parents[1] / "benchmarks" / "task_sets.py"
SAMPLES = 400
RECIPE = """\
name: {name}
model: {{source: {model}}}
preprocess: {{mean: [0.286], std: [0.353], channels: 1}}
task: {task}
data: {{validation: "{validation}", calibration: "{calibration}"}}
targets: [{targets}]
gates: {{metric: [{metrics}], max_drop: {drop}, min_int8_coverage: 0.9}}
benchmark: {{seconds: 0.1, threads: 1}}
"""
TASKS = {
    "embedding": ("{name: embedding, false_accepts: 0.01}", "recall1, direction_db", 4),
    "segmentation": ("{name: segmentation}", "miou, pixels", 2),
    "heads": (
        "[{name: classification, output: garment}, {name: classification, output: turn}]",
        "garment.top1, turn.top1",
        3,
    ),
    "lines": ("{name: classification, output: scores}", "top1, balanced", 3),
}
#: Two of them in each run of the tests, the others among the slow ones.
NAMES = [
    pytest.param("segmentation", marks=pytest.mark.slow),
    pytest.param("heads", marks=pytest.mark.slow),
    pytest.param("embedding", marks=pytest.mark.slow),
    pytest.param("lines", marks=pytest.mark.slow),
]
#: What the float networks reach at least, in percent, far above guessing.
TRAINED = {
    "embedding": {"recall1": 78, "tar": 40},
    "segmentation": {"miou": 40, "pixels": 85},
    "heads": {"garment.top1": 78, "turn.top1": 85},
    "lines": {"top1": 80, "balanced": 80},
}
#: A layer behind which a wrong scale is planted, for the second of two heads its own.
LAYER = {
    "embedding": "node_linear",
    "segmentation": "node_Conv_223",
    "heads": "node_linear_1",
    "lines": "node_linear",
}


@pytest.fixture(scope="module")
def pictures(load_program, tmp_path_factory: pytest.TempPathFactory):
    """``pictures(name)``, or features: ``--data`` of calibration and of validation."""
    program, folder = load_program(SETS), tmp_path_factory.mktemp("pictures")
    known: dict[str, tuple[str, str]] = {}

    def sets(name: str) -> tuple[str, str]:
        if name not in known:
            (folder / name).mkdir()
            write = program.write_lines if name == "lines" else partial(program.write_set, name)
            known[name] = (
                write("calibration", 128, folder / name / "calibration.npz"),
                write("validation", SAMPLES, folder / name / "test.npz"),
            )
        return known[name]

    return sets


@pytest.fixture(scope="module")
def converted(pictures, tmp_path_factory: pytest.TempPathFactory):
    """``converted(name)``: the output of one run of `convert` for all targets that there are."""
    folder = tmp_path_factory.mktemp("trained")
    known: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in known:
            calibration, validation = pictures(name)
            task, metrics, drop = TASKS[name]
            recipe = folder / f"{name}.yaml"
            recipe.write_text(
                RECIPE.format(
                    name=name,
                    model=HERE / "trained" / f"{name}.onnx",
                    task=task,
                    validation=validation,
                    calibration=calibration,
                    targets=", ".join(installed()),
                    metrics=metrics,
                    drop=drop,
                )
            )
            arguments = ("convert", recipe, "--output", folder / name, "--trust-recipe", "--json")
            result = invoke(*arguments)
            assert result.exit_code == 0, result.output
            known[name] = folder / name
        return known[name]

    return run


def parts(folder: Path, *, executed: bool):
    report = json.loads((folder / "report.json").read_text())
    return {n: p for n, p in report["targets"].items() if p["executed"] == executed}


@pytest.mark.parametrize("name", NAMES)
def test_engines_are_as_good_as_the_trained_network(converted, name: str) -> None:
    found = parts(converted(name), executed=True)
    assert found
    for part in found.values():
        assert part["verdict"] == "pass"
        assert part["int8_coverage"] >= 0.9
        for metric, least in TRAINED[name].items():
            assert part["metrics"][metric]["fp32"] > least
        assert all(one["sqnr_db"] > 25 for one in part["outputs"].values())


@pytest.mark.parametrize("name", NAMES)
def test_plans_are_built_and_their_layers_read(converted, name: str) -> None:
    if "tensorrt" not in installed():
        pytest.skip("TensorRT is not installed")
    plan = parts(converted(name), executed=False).get("tensorrt")
    if plan is None:
        pytest.skip("runs here: judged with the others")
    assert plan["built"]
    assert plan["verdict"] == "not_executed"
    assert plan["int8_coverage"] >= 0.9
    assert (converted(name) / plan["engine"]).stat().st_size > 100_000


@pytest.mark.parametrize("name", NAMES)
def test_the_bundle_reads_a_sample_as_its_label_says(converted, pictures, tmp_path, name) -> None:
    folder = converted(name)
    target = next(iter(parts(folder, executed=True)))
    result = invoke("bundle", folder, "--target", target, "--json")
    assert result.exit_code == 0, result.output
    kind, _, file = pictures(name)[1].partition(":")
    picture = Path(file).parent / "0.png"
    if kind == "tensors":
        with np.load(file) as arrays:
            first, label = arrays["inputs"][0], arrays["labels"][0]
        np.save(tmp_path / "first.npy", first)
        picture = tmp_path / "first.npy"
    told = json.loads(invoke("run", folder / "bundle.edgeres", picture, "--json").stdout)
    text = told["images"][0]["text"]
    if name == "embedding":
        assert text.startswith("[128] ")
    elif name == "segmentation":
        assert text.startswith("class 0 ")
    elif name == "lines":
        assert text.startswith(f"{label} ")
    else:
        _, turn = (picture.parent / "table.csv").read_text().splitlines()[1].split(",")[1:]
        assert text.startswith("garment: class ")
        assert f"; turn: class {turn} " in text
    with edgeres.Session(folder / "bundle.edgeres") as session:
        (reading,) = session.read([picture])
    assert reading.text == text


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_scale_in_any_head_fails_and_is_explained(
    converted, pictures, tmp_path, name: str
) -> None:
    folder = converted(name)
    model = onnx.load(folder / "onnxruntime" / "model.qdq.onnx")
    changed = 0
    for scale in model.graph.initializer:
        if scale.name in (f"{LAYER[name]}.weight_scale", f"{LAYER[name]}.bias_scale"):
            values = numpy_helper.to_array(scale).copy()
            values[: len(values) // 2 + 1] *= 8
            scale.CopyFrom(numpy_helper.from_array(values, scale.name))
            changed += 1
    assert changed
    (tmp_path / "baseline").symlink_to(folder / "baseline")
    (tmp_path / "onnxruntime").mkdir()
    onnx.save(model, tmp_path / "onnxruntime" / "model.qdq.onnx")
    engine = build(
        tmp_path / "onnxruntime" / "model.qdq.onnx",
        tmp_path / "onnxruntime" / "model",
        target="onnxruntime",
        threads=1,
    ).path
    options = [f"--metric={metric.strip()}" for metric in TASKS[name][1].split(",")]
    if name == "heads":  # right answers stay right whatever their head is multiplied with
        options = ["--task", "outputs", "--baseline", folder / "baseline" / "model.onnx"]
    result = invoke("validate", engine, "--data", pictures(name)[1], *options, "--json")
    told = json.loads(result.stdout)
    assert (told["verdict"], result.exit_code) == ("fail", 1), told["reason"]
    assert told["explanation"].startswith(f"{LAYER[name]} alone leaves"), told["explanation"]
    assert "its weights are 8.00 times those of the reference" in told["explanation"]


@pytest.mark.slow
def test_layers_stay_float_by_the_figures_of_all_heads(pictures, tmp_path: Path) -> None:
    """Noise over both outputs and the first gated head's loss, on real engines."""
    calibration, _ = pictures("heads")
    recipe = tmp_path / "mixed.yaml"
    task, metrics, _ = TASKS["heads"]
    target = next(name for name in installed() if name != "tensorrt")

    def found(decibels: float) -> dict:
        text = RECIPE.format(
            name="heads", model=HERE / "trained" / "heads.onnx", task=task, metrics=metrics,
            validation=calibration, calibration=calibration, targets=target, drop=20,
        )  # fmt: skip
        block = f"max_drop: 0.0, min_sqnr_db: {decibels}, samples: 64, seconds: 0.1"
        text = text.replace("min_int8_coverage: 0.9", "min_int8_coverage: 0.1")
        recipe.write_text(f"{text}quantize: {{mixed_precision: {{{block}}}}}\n")
        result = invoke("convert", recipe, "--output", tmp_path / "out", "--trust-recipe")
        assert (tmp_path / "out" / target).is_dir(), result.output
        return json.loads((tmp_path / "out" / target / "mixed_precision.json").read_text())

    plain = found(10)
    assert plain["keep_float"] == []
    (trial,) = plain["trials"]
    assert trial["effect"]["agreement"] is None
    assert trial["effect"]["figure"] > 75
    mixed = found(trial["effect"]["sqnr_db"] + 0.3)
    assert mixed["keep_float"]
    assert mixed["trials"][-1]["effect"]["sqnr_db"] >= trial["effect"]["sqnr_db"] + 0.3
    assert mixed["trials"][-1]["broken"] == ""
