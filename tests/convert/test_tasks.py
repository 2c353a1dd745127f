"""Networks that are no classifiers, from the model file to what the bundle prints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import edgeres
from edgeres.report.samples import read_samples

from .conftest import invoke
from .many_outputs import with_outputs, write_images

pytestmark = pytest.mark.slow  # `test_every_task.py` takes each task through a run in CI

SAMPLES = 400
RECIPE = """\
name: task
model: {{source: net.onnx}}
preprocess: {{scale: 0.00392156862745098, mean: [0.286], std: [0.353], channels: 1}}
task: {task}
data: {{validation: "{data}", calibration: "npz:images.npz", calibration_samples: 64}}
targets: [{targets}]
gates: {{{gates}}}
benchmark: {{seconds: 0.1, threads: 1}}
"""
TASKS = {
    "outputs": ("{name: outputs}", "npz:images.npz", "floor: {logits.sqnr_db: 25}"),
    "heads": (
        "[{name: classification, output: logits, target: label}, "
        "{name: regression, output: shares, target: number, "
        "expected_value: [0, 9], unit: classes}, "
        "{name: embedding, output: features, target: label}]",
        "list:table.csv",
        "max_drop: 5, metric: [logits.top1, shares.mae, features.recall1]",
    ),
    "segmentation": ("{name: segmentation, output: map}", "list:masks.csv", "max_drop: 5"),
    "custom": (
        "{name: custom, function: 'score.py:margin', max_drop: 0.5}",
        "list:table.csv",
        "max_drop: 1.0",
    ),
}
TARGETS = {  # both engines once, then one of them each
    "outputs": ("onnxruntime", "openvino"),
    "heads": ("openvino",),
    "segmentation": ("onnxruntime",),
    "custom": ("openvino",),
}
METRICS = {"heads": ("--metric", "logits.top1", "--metric", "shares.mae")}
ENGINE = {"onnxruntime": "onnxruntime/model.onnx", "openvino": "openvino/model.xml"}
SCORE = """\
import numpy as np

def margin(outputs, targets):
    logits = outputs["logits"]
    rows = np.arange(len(logits))
    labels = targets["label"].astype(int)
    return logits[rows, labels] - logits.mean(axis=1)
"""


@pytest.fixture(scope="module")
def place(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference network with four outputs, and images with every kind of target."""
    folder = tmp_path_factory.mktemp("tasks")
    onnx.save(with_outputs(workplace / "out" / "baseline" / "model.onnx"), folder / "net.onnx")
    write_images(folder, SAMPLES)
    (folder / "score.py").write_text(SCORE)
    return folder


@pytest.fixture(scope="module")
def converted(place: Path) -> dict[str, Path]:
    """One run for each task."""
    found = {}
    for name, (task, data, gates) in TASKS.items():
        recipe = place / f"{name}.yaml"
        targets = ", ".join(TARGETS[name])
        recipe.write_text(RECIPE.format(task=task, data=data, targets=targets, gates=gates))
        result = invoke("convert", recipe, "--output", place / name, "--json", "--trust-recipe")
        assert result.exit_code == 0, f"{name}: {result.output}"
        found[name] = place / name
    return found


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_judged_by_its_own_metrics(converted, name: str) -> None:
    report = json.loads((converted[name] / "report.json").read_text())
    assert report["schema"] == 2
    assert report["baseline"]["top1"] is None
    for target in report["targets"].values():
        assert target["verdict"] == "pass"
        gated = [part for part in target["metrics"].values() if part["verdict"]]
        assert gated
        assert all(part["drop_lower"] <= part["drop"] <= part["drop_upper"] for part in gated)
        assert all(part["cosine"] > 0.99 for part in target["outputs"].values())


def test_figures_are_those_of_a_trained_network(converted) -> None:
    def metrics(name: str) -> dict[str, dict[str, float]]:
        report = json.loads((converted[name] / "report.json").read_text())
        return report["targets"][TARGETS[name][0]]["metrics"]

    assert metrics("heads")["logits.top1"]["fp32"] > 90
    assert metrics("heads")["features.recall1"]["fp32"] > 85
    assert metrics("heads")["shares.mae"]["fp32"] < 0.6
    assert metrics("segmentation")["miou"]["fp32"] > 40
    assert metrics("outputs")["features.sqnr_db"]["engine"] > 30


def allowed(place: Path, name: str, drop: float) -> tuple[object, ...]:
    """Words for a loss, which near outputs have none of, and for code, which must be named."""
    code = ("--task", f"custom:{place / 'score.py'}:margin") if name == "custom" else ()
    return (*code, *(() if name == "outputs" else ("--max-drop", drop)))


@pytest.mark.parametrize("name", TASKS)
def test_validate_knows_the_task_of_the_run(converted, place, name: str) -> None:
    _, data, _ = TASKS[name]
    result = invoke(
        "validate", converted[name] / ENGINE[TARGETS[name][-1]], "--data", at(place, data),
        *allowed(place, name, 5), "--json", *METRICS.get(name, ()),
    )  # fmt: skip
    told = json.loads(result.stdout)
    report = json.loads((converted[name] / "report.json").read_text())
    assert told["metrics"].keys() == report["targets"][TARGETS[name][-1]]["metrics"].keys()
    assert (told["verdict"], result.exit_code) == ("pass", 0), told["reason"]


def test_code_of_a_run_is_not_run_until_it_is_named(converted, place) -> None:
    engine = converted["custom"] / ENGINE[TARGETS["custom"][-1]]
    words = ("validate", engine, "--data", at(place, "list:table.csv"), "--max-drop", 5)
    refused = invoke(*words)
    assert refused.exit_code == 2, refused.output
    told = " ".join(refused.stderr.split())
    assert f"was judged by code, {place / 'score.py'}:margin." in told
    assert "name it: --task custom:FILE.py:FUNCTION" in told


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_mean_fails_and_is_explained(converted, place, name: str) -> None:
    data = at(place, TASKS[name][1])
    result = invoke(
        "validate", converted[name] / ENGINE[TARGETS[name][0]], "--data", data,
        "--mean", "0.9", "--json", *allowed(place, name, 0.5),
    )  # fmt: skip
    told = json.loads(result.stdout)
    assert (told["verdict"], result.exit_code) == ("fail", 1)
    assert "mean is [0.9] here" in told["explanation"]


@pytest.mark.parametrize("name", ["outputs", "heads", "segmentation"])
def test_the_bundle_says_what_the_outputs_mean(converted, place, name: str) -> None:
    made = invoke("bundle", converted[name], "--json")
    assert made.exit_code == 0, made.output
    bundle, image = converted[name] / "bundle.edgeres", place / "images" / "0.png"
    told = json.loads(invoke("run", bundle, image, "--json").stdout)
    (read,) = told["images"]
    assert read["text"]
    with edgeres.Session(bundle) as session:
        assert not session.is_classifier
        (reading,) = session.read([image])
        assert reading.text == read["text"]
        with pytest.raises(edgeres.UsageError, match="no classifier"):
            session.classify([image])
    if name == "heads":
        label = (place / "table.csv").read_text().splitlines()[1].split(",")[1]
        assert f"logits: class {label} " in reading.text
        assert abs(float(reading.text.split("shares: ")[1].split()[0]) - int(label)) < 0.5


def test_pages_show_the_metric(converted) -> None:
    assert invoke("report", converted["heads"]).exit_code == 0
    page = (converted["heads"] / "report.html").read_text()
    card = (converted["heads"] / "MODEL_CARD.md").read_text()
    assert "top-1 of &#39;logits&#39;" in page
    assert "shares.mae classes, FP32" in card
    assert "FP32 top-1 of" in card
    assert "features: cosine of pairs" in page
    assert "Top-1 %" not in page


def test_the_worst_samples_are_those_that_differ_most(converted) -> None:
    """They are answered again for the page, and both models then say what they said before."""
    folder = converted["segmentation"]
    found = read_samples(folder / "evidence", TARGETS["segmentation"][0])
    assert found is not None
    assert len(found.worst) == 8
    levels = [sample.sqnr_db for sample in found.worst if sample.sqnr_db is not None]
    assert levels == sorted(levels)
    report = json.loads((folder / "report.json").read_text())
    assert levels[-1] < report["targets"]["onnxruntime"]["outputs"]["map"]["sqnr_db"]
    for sample in found.worst:
        assert (sample.fp32, sample.engine) != ("", "")
        files = [sample.image, *sample.maps]
        assert len(files) == 3
        assert all((folder / "evidence" / str(file)).is_file() for file in files)
    maps = [[np.asarray(Image.open(folder / "evidence" / m)) for m in s.maps] for s in found.worst]
    assert any((fp32 != int8).any() for fp32, int8 in maps)
    assert all((fp32 == int8).mean() > 0.5 for fp32, int8 in maps)


@pytest.mark.slow
def test_training_for_int8_needs_no_labels_here(converted, place) -> None:
    """It follows the float network: what was learned is at least as near to it."""
    recipe = place / "qat.yaml"
    task, data, gates = TASKS["outputs"]
    recipe.write_text(
        RECIPE.format(task=task, data=data, targets="onnxruntime", gates=gates).replace(
            "calibration_samples: 64}", 'calibration_samples: 64, train: "imagefolder:images"}'
        )
        + "quantize: {qat: {epochs: 2, batch_size: 32, flip: false, crop_padding: 0}}\n"
    )
    result = invoke("convert", recipe, "--output", place / "qat", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert "quantization-aware training (onnxruntime" in " ".join(s["name"] for s in told["stages"])
    plain = json.loads((place / "outputs" / "report.json").read_text())
    levels = [
        report["targets"]["onnxruntime"]["outputs"]["map"]["sqnr_db"] for report in (told, plain)
    ]
    assert levels[0] > levels[1] - 1


def test_what_cannot_be_judged_is_told_in_one_line(place, tmp_path) -> None:
    def refused(task: str, data: str, gates: str = "", **model: object) -> str:
        recipe = place / "bad.yaml"
        recipe.write_text(RECIPE.format(task=task, data=data, targets="onnxruntime", gates=gates))
        result = invoke("convert", recipe, "--output", tmp_path / "out", "--trust-recipe")
        assert result.exit_code in (2, 3), result.output
        return " ".join(result.output.split())

    assert "there is no task 'regresion'" in refused("{name: regresion}", "list:table.csv")
    assert "classification, output: NAME" in refused(
        "[{name: classification}, {name: regression, output: shares}]", "list:table.csv"
    ) or "which output" in refused(
        "[{name: classification}, {name: regression, output: shares}]", "list:table.csv"
    )
    assert "no output 'none'" in refused("{name: regression, output: none}", "list:table.csv")
    assert "no metric 'nope'" in refused("{name: outputs}", "npz:images.npz", "metric: [nope]")
    (place / "nan.py").write_text("def f(o, t):\n    return [float('nan')] * len(o['logits'])\n")
    assert "are NaN" in refused("{name: custom, function: 'nan.py:f'}", "list:table.csv")
    (place / "one.py").write_text("def f(o, t):\n    return 1.0\n")
    assert "one score for each" in refused("{name: custom, function: 'one.py:f'}", "list:table.csv")
    (place / "raise.py").write_text("def f(o, t):\n    raise KeyError('x')\n")
    assert "KeyError" in refused("{name: custom, function: 'raise.py:f'}", "list:table.csv")
    assert "several" in refused("{name: regression}", "list:table.csv") or "one output" in refused(
        "{name: regression}", "list:table.csv"
    )


def at(place: Path, data: str) -> str:
    kind, _, file = data.partition(":")
    return f"{kind}:{place / file}"
