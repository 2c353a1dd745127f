"""The main job on the real reference network, real engines and real images, smaller."""

import gzip
import hashlib
import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgeres
from edgeres.assets import asset_path
from edgeres.backends import get_backend, target_names
from edgeres.cli import app
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset
from edgeres.errors import UsageError
from edgeres.recipe_compress import QuantizeBlock
from edgeres.report.history import read_history
from edgeres.source import ModelFacts, choose_preprocess

CHECKPOINT = "checkpoints/fmnist_resnet20.safetensors"
SAMPLES = 400
MEASURED_ANEW = ("report.json", "evidence/latency.json", "history.sqlite")
RECIPE = """\
name: small
model: {{source: net.safetensors}}
data: {{validation_samples: {samples}, calibration_samples: 64}}
targets: [{targets}]
checks: {{max_drop_pp: 5}}
benchmark: {{seconds: 0.2}}
"""


def _installed() -> list[str]:
    return [name for name in target_names() if get_backend(name).missing() is None]


def _invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".stages" not in file.parts
    }


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a recipe, the reference network, and the output of one run."""
    folder = tmp_path_factory.mktemp("convert")
    shutil.copyfile(asset_path("recipes", CHECKPOINT), folder / "net.safetensors")
    text = RECIPE.format(samples=SAMPLES, targets=", ".join(_installed()))
    (folder / "recipe.yaml").write_text(text)
    result = _invoke("convert", folder / "recipe.yaml", "--output", folder / "out", "--json")
    assert result.exit_code == 0, result.output
    (folder / "stdout.json").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def report(workplace):
    return json.loads((workplace / "out" / "report.json").read_text())


def test_json_on_stdout_is_the_report(workplace, report):
    assert json.loads((workplace / "stdout.json").read_text()) == report


def test_report_has_the_fields_of_the_contract(report):
    assert report["schema"] == 1
    assert {"cpu", "isa", "threads", "versions"} <= set(report["environment"])
    assert report["model"]["name"] == "resnet20"
    assert 0.26e6 < report["model"]["parameters"] < 0.28e6
    assert 30e6 < report["model"]["macs"] < 33e6
    assert report["baseline"]["samples"] == SAMPLES
    assert report["pruning"] is None
    assert {"name", "seconds", "cached", "peak_rss_bytes"} <= set(report["stages"][0])
    assert set(report["targets"]) == set(_installed())


@pytest.mark.parametrize("name", target_names())
def test_every_engine_is_int8_and_as_good_as_fp32(workplace, report, name):
    if name not in report["targets"]:
        pytest.skip(get_backend(name).missing())
    target = report["targets"][name]
    assert target["built"]
    assert (workplace / "out" / target["engine"]).is_file()
    assert target["int8_coverage"] >= 0.95
    assert target["float_layers"] == [] or target["int8_coverage"] < 1
    if get_backend(name).not_executable() is not None:
        assert target["verdict"] == "not_executed"
        assert not target["executed"]
        assert target["reason"]
        assert target["top1"] is None
        return
    assert target["verdict"] == "pass"
    assert target["sqnr_db"] >= 30
    assert target["agreement"] >= 0.98
    assert target["drop_pp"] <= target["drop_upper_pp"]
    lost, gained = target["flips"]["lost"], target["flips"]["gained"]
    assert target["quantization_drop_pp"] == pytest.approx(100 * (lost - gained) / SAMPLES)
    times = target["latency_ms"]
    assert 0 < times["p50"] <= times["p90"] <= times["p99"]
    fp32 = report["baseline"]["latency_ms"][name]
    assert target["speedup"] == pytest.approx(fp32["p50"] / times["p50"])


def test_every_pair_of_models_that_ran_is_compared(report):
    ran = [name for name, target in report["targets"].items() if target["executed"]]
    matrix = report["agreement_matrix"]
    assert matrix["names"] == ["fp32", *ran]
    agreement = np.array(matrix["agreement"])
    assert np.array_equal(agreement, agreement.T)
    assert (agreement.diagonal() == 1).all()
    for index, name in enumerate(ran, start=1):
        assert agreement[0, index] == report["targets"][name]["agreement"]
        assert matrix["sqnr_db"][0][index] == pytest.approx(report["targets"][name]["sqnr_db"])
        assert matrix["sqnr_db"][index][index] is None


def test_the_run_leaves_what_it_says(workplace, report):
    out = workplace / "out"
    for name in report["targets"]:
        assert (out / name / "model.qdq.onnx").is_file()
        account = json.loads((out / name / "model.qdq.json").read_text())
        assert account["quantized_nodes"]
        assert account["rules"]["name"].startswith(name)
    kept = {file.name for file in (out / "baseline").iterdir()}
    assert {"model.onnx", "predictions.npz", "preprocess.json", "calibration_table.json"} <= kept


def test_one_gate_over_accuracy_coverage_size_and_speed(workplace, tmp_path):
    text = RECIPE.format(samples=SAMPLES, targets="onnxruntime")
    limits = "max_drop_pp: 5, max_size_bytes: 1000, max_p99_ms: 5000, min_speedup: 0.01"
    (workplace / "strict.yaml").write_text(text.replace("max_drop_pp: 5", limits))
    junit = tmp_path / "junit.xml"
    result = _invoke(
        "convert", workplace / "strict.yaml", "--output", tmp_path / "out", "--json",
        "--junit", junit, "--annotations",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    target = json.loads(result.stdout)["targets"]["onnxruntime"]
    outcomes = {check["name"]: check["outcome"] for check in target["checks"]}
    assert set(outcomes) == {"accuracy", "int8_coverage", "size", "latency", "speedup"}
    assert target["verdict"] == outcomes["size"] == "fail"
    assert outcomes["accuracy"] == outcomes["int8_coverage"] == "pass"
    assert outcomes["latency"] != "fail"
    assert 'name="size"' in junit.read_text()
    assert "::error title=edgeres onnxruntime" in result.stderr


def _device(workplace: Path, report: dict, folder: Path) -> Path:
    """A folder with nothing but an engine and the baseline, as on a device."""
    engine = workplace / "out" / report["targets"]["onnxruntime"]["engine"]
    folder.mkdir()
    for file in (engine, engine.with_name(engine.name + ".engine.json")):
        shutil.copyfile(file, folder / file.name)
    for name in ("predictions.npz", "preprocess.json"):
        shutil.copyfile(workplace / "out" / "baseline" / name, folder / name)
    return folder / engine.name


def test_a_device_with_engine_and_baseline_only_can_validate(workplace, report, tmp_path):
    engine = _device(workplace, report, tmp_path / "device")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgeres.data.source import open_dataset\n"
        "from edgeres.data.sampling import take\n"
        "import edgeres.cli.engines as e, edgeres.data.source as s\n"
        "whole = s.open_dataset\n"
        f"s.open_dataset = lambda *a, **k: take(whole(*a, **k), {SAMPLES})\n"
        "from edgeres.cli import app\n"
        "app()"
    )
    options = ["--baseline", "predictions.npz", "--max-drop", "5", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", engine.name, *options,
         "--record-conformance", "c.yaml"],
        capture_output=True, text=True, cwd=engine.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["top1"] == report["targets"]["onnxruntime"]["top1"]
    kept = (engine.parent / "c.yaml").read_text()
    # What was recorded passes; a figure that is too good fails, too.
    (engine.parent / "c.yaml").write_text(
        kept.replace(f"expected: {told['agreement']}", "expected: 0.5")
    )
    for text, code_expected in ((kept, 0), ((engine.parent / "c.yaml").read_text(), 1)):
        (engine.parent / "c.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", code, "validate", engine.name, *options,
             "--conformance", "c.yaml"],
            capture_output=True, text=True, cwd=engine.parent, check=False,
        )  # fmt: skip
        assert done.returncode == code_expected, done.stderr
    assert "better than expected" in json.loads(done.stdout)["reason"]


def test_planted_regressions_fail(workplace, report, tmp_path):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(workplace / "out" / "onnxruntime" / "model.qdq.onnx")
    # An INT32 bias must go along, or the engine would not fuse the layer, which is another fault.
    names = {"layer2.1.conv1.weight_scale", "layer2.1.conv1.bias_scale"}
    scales = [weight for weight in model.graph.initializer if weight.name in names]
    assert len(scales) == 2
    for scale in scales:
        scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))
    onnx.save(model, tmp_path / "doubled.onnx")
    bad = tmp_path / "out" / "onnxruntime" / "model.onnx"
    bad.parent.mkdir(parents=True)
    built = _invoke(
        "build", tmp_path / "doubled.onnx", "--output", bad.with_suffix(""),
        "--target", "onnxruntime",
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    shutil.copyfile(tmp_path / "doubled.onnx", bad.with_name("model.qdq.onnx"))
    shutil.copytree(workplace / "out" / "baseline", tmp_path / "out" / "baseline")
    good = workplace / "out" / report["targets"]["onnxruntime"]["engine"]
    # A file of answers stays right where the engine's images are prepared wrongly.
    baseline = tmp_path / "baseline.npz"
    fp32 = workplace / "out" / "baseline" / "model.onnx"
    first = _invoke("validate", good, "--baseline", fp32, "--max-drop", "1", "--json")
    assert first.exit_code == 0, first.output
    _invoke("validate", good, "--baseline", fp32, "--save", baseline)
    kept = (workplace / "out" / "baseline" / "preprocess.json").read_text()
    (tmp_path / "preprocess.json").write_text(kept)
    for engine, options, told in (
        (bad, (), "layer2.1.conv1 alone leaves"),
        (good, ("--mean", "0.9"), "mean is [0.9] here and [0.286] in"),
    ):
        result = _invoke("validate", engine, "--baseline", baseline, *options, "--json")
        assert result.exit_code == 1, result.output
        content = json.loads(result.stdout)
        assert content["verdict"] == "fail"
        assert told in content["explanation"]
    result = _invoke("compare", fp32, bad, "--samples", "8", "--json")
    assert json.loads(result.stdout)["suspects"][0]["node"] == "layer2.1.conv1"


def test_a_bad_image_is_left_out_and_named(workplace, report, tmp_path):
    from PIL import Image

    engine = workplace / "out" / report["targets"]["onnxruntime"]["engine"]
    dataset = take(open_dataset("fashion-mnist", split="validation"), 300)
    for index in range(300):
        label = int(dataset.labels[index])
        place = tmp_path / "val" / f"{label}" / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(dataset.image(index))).save(place)
    first = sorted((tmp_path / "val").rglob("*.png"))[0]
    first.write_bytes(b"\x89PNG")
    options = ("--data", f"imagefolder:{tmp_path}", "--max-drop", "5", "--json")
    baseline = workplace / "out" / "baseline" / "model.onnx"
    result = _invoke("validate", engine, *options, "--baseline", baseline)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["samples"] == 299
    assert first.name in told["left_out"]
    recipe = RECIPE.format(samples=300, targets="onnxruntime").replace(
        "data: {", f"data: {{validation: 'imagefolder:{tmp_path}', "
    )
    (workplace / "bad.yaml").write_text(recipe)
    result = _invoke(
        "convert", workplace / "bad.yaml", "--trust-recipe", "--output", tmp_path / "o", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["baseline"]["samples"] == 299


def test_report_makes_a_page_of_what_convert_left(workplace, report, tmp_path):
    out = workplace / "out"
    result = _invoke("report", out, "--output", tmp_path / "pages", "--json")
    assert result.exit_code == 0, result.output
    files = json.loads(result.stdout)["files"]
    page = Path(files["html"]).read_text()
    for name, target in report["targets"].items():
        assert target["reason"].split(".")[0] in page
        assert f"{name}: " in page
        engine = json.loads((out / "evidence" / f"{name}.json").read_text())
        assert "layer1.0.conv1" in {node for layer in engine["layers"] for node in layer["nodes"]}
    assert "layer1.0.add" in page
    assert "edgeres convert recipe.yaml" in page
    assert Path(files["model_card"]).read_text().startswith("---\n")
    assert str(workplace) not in page  # a page is given away: no paths of this machine


def test_report_of_another_folder_is_refused(tmp_path):
    result = _invoke("report", tmp_path, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["id"] == "bad-artefact"


def test_a_second_run_does_nothing_anew_but_measure(workplace, report):
    before = _hashes(workplace / "out")
    result = _invoke("convert", workplace / "recipe.yaml", "--output", workplace / "out", "--json")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)
    anew = [stage["name"] for stage in again["stages"] if not stage["cached"]]
    assert anew == ["benchmark"]
    after = _hashes(workplace / "out")
    for name in MEASURED_ANEW:
        before.pop(name)
        after.pop(name)
    assert before == after
    kept = read_history(workplace / "out" / "history.sqlite")
    assert len(kept) == 2 * len(report["targets"])
    assert [row.run for row in kept] == sorted(row.run for row in kept)
    for name, target in again["targets"].items():
        assert target["sqnr_db"] == report["targets"][name]["sqnr_db"]


def test_what_engines_answer_is_asked_again_under_other_instruction_sets(
    workplace, tmp_path, monkeypatch
):
    from edgeres import pipeline

    shutil.copytree(workplace / "out", tmp_path / "out")
    machine = pipeline.describe_environment()
    less = replace(machine, isa=(*machine.isa[:-1], "another"))
    monkeypatch.setattr(pipeline, "describe_environment", lambda: less)
    result = _invoke("convert", workplace / "recipe.yaml", "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    again = json.loads(result.stdout)["stages"]
    anew = {stage["name"].split(" (")[0] for stage in again if not stage["cached"]}
    assert anew == {"benchmark", "evaluate", "inspect"}
    assert not [s for s in again if s["cached"] and s["name"].startswith(("evaluate", "inspect"))]


def test_layers_are_measured_where_it_is_asked_for(workplace, report, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(workplace / "out", out)
    text = (workplace / "recipe.yaml").read_text()
    few = workplace / "layers.yaml"
    few.write_text(text + "report: {layer_samples: 8}\n")
    arguments = ("convert", few, "--layers", "--output", out, "--json")
    first = json.loads(_invoke(*arguments).stdout)
    anew = {stage["name"].split(" (")[0] for stage in first["stages"] if not stage["cached"]}
    assert anew == {"benchmark", "sensitivity", "compare layers"}
    page = Path(json.loads(_invoke("report", out, "--json").stdout)["files"]["html"]).read_text()
    for name, target in report["targets"].items():
        alone = json.loads((out / "evidence" / f"{name}-sensitivity.json").read_text())
        assert {"conv1", "layer3.0.downsample.0", "fc"} <= {x["node"] for x in alone["nodes"]}
        assert all(10 < x["only"]["sqnr_db"] < 100 for x in alone["nodes"])
        assert f"Sensitivity, most sensitive layers first ({name})" in page
        kept = out / "evidence" / f"{name}-compare.json"
        assert kept.is_file() == target["executed"]
        if not target["executed"]:
            continue
        found = json.loads(kept.read_text())
        assert found["candidate"] == target["engine"]
        assert str(tmp_path) not in kept.read_text()
        assert found["output"]["samples"] == 8
        for layer in found["layers"]:
            assert 15 < layer["own_sqnr_db"] < 100
            assert f">{layer['own_sqnr_db']:.1f}</td>" in page
        assert f"SQNR of the outputs ({name})" in page
    again = json.loads(_invoke(*arguments).stdout)
    assert [stage["name"] for stage in again["stages"] if not stage["cached"]] == ["benchmark"]


def test_a_clean_run_elsewhere_gives_the_same_files(workplace, tmp_path):
    # TensorRT's builder does not always give equal plans, so a plan and its sidecar are left out.
    result = _invoke(
        "convert", workplace / "recipe.yaml", "--output", tmp_path / "other", "--json", "--no-cache"
    )
    assert result.exit_code == 0, result.output
    first, second = _hashes(workplace / "out"), _hashes(tmp_path / "other")
    # Their layers are TensorRT's own, too.
    left_out = (*MEASURED_ANEW, "evidence/tensorrt.json")
    for name in [name for name in first if "plan" in name or name in left_out]:
        first.pop(name)
        assert second.pop(name)
    assert first == second


RECOVERY = {
    "quantize.bias_correction": "empirical",
    "quantize.rounding": "learned",
    "quantize.equalize": True,
    "quantize.measured_samples": 16,
}


def _quantize_stages(report) -> list:
    names = ("equalize", "calibrate", "quantize")
    return [stage for stage in report.stages if stage.name.split()[0] in names]


def test_recovery_switches_reach_the_engine_and_its_key(workplace, tmp_path):
    one = {"targets": ["onnxruntime"], "data.validation_samples": 100}

    def run(**changes):
        dotted = {f"quantize.{key}": value for key, value in changes.items()}
        recipe = edgeres.load_recipe(workplace / "recipe.yaml", {**one, **RECOVERY, **dotted})
        return edgeres.convert(recipe, tmp_path / "out")

    first = run()
    account = json.loads((tmp_path / "out" / "onnxruntime" / "model.qdq.json").read_text())
    assert sum(account["rounding_gain_db"].values()) > 10
    assert [stage.name.split()[0] for stage in _quantize_stages(first)] == [
        "equalize",
        "calibrate",
        "quantize",
    ]
    assert first.targets["onnxruntime"].sqnr_db > 30
    assert all(stage.cached for stage in _quantize_stages(run()))
    anew = [stage.cached for stage in _quantize_stages(run(measured_samples=24))]
    assert anew == [True, True, False]
    plain = run(equalize=False, rounding="nearest", bias_correction="analytic")
    assert [stage.name.split()[0] for stage in _quantize_stages(plain)] == ["calibrate", "quantize"]
    assert not any(stage.cached for stage in _quantize_stages(plain))


def test_quantize_command_equalizes_and_measures(workplace, tmp_path):
    text = (workplace / "recipe.yaml").read_text() + (
        "preprocess: {mean: [0.286], std: [0.353], channels: 1}\n"
        "quantize: {bias_correction: empirical, rounding: learned, equalize: true}\n"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    labels = (np.arange(32) % 10).astype(np.int64)
    images = np.random.default_rng(0).integers(0, 255, (32, 28, 28, 1), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    result = _invoke(
        "quantize", workplace / "out" / "baseline" / "model.onnx", "--output",
        tmp_path / "q.onnx", "--target", "onnxruntime", "--data", f"npz:{tmp_path}/few.npz",
        "--recipe", tmp_path / "recipe.yaml", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rounding_gain_db"]
    assert (tmp_path / "q.equalized.onnx").is_file()


@pytest.mark.parametrize(
    ("block", "target", "message"),
    [
        ("portable: true", "onnxruntime", "`portable: true` and --target says 'onnxruntime'"),
        ("mixed_precision: {min_sqnr_db: 9}", "onnxruntime", "searched on built engines"),
        ("equalize: true", None, "no target is named"),
    ],
)
def test_quantize_command_refuses_what_it_cannot_do(tmp_path, block, target, message):
    (tmp_path / "r.yaml").write_text(
        f"model: {{source: net.onnx}}\ntargets: [onnxruntime]\nquantize: {{{block}}}\n"
    )
    named = () if target is None else ("--target", target)
    result = _invoke(
        "quantize", tmp_path / "net.onnx", "--output", tmp_path / "q.onnx", *named,
        "--data", "fashion-mnist", "--recipe", tmp_path / "r.yaml", "--json",
    )  # fmt: skip
    assert result.exit_code == 2
    assert message in json.loads(result.stdout)["error"]["message"]


def test_quantize_and_sensitivity_commands_obey_the_recipe(workplace, tmp_path):
    baseline = workplace / "out" / "baseline"
    text = (workplace / "recipe.yaml").read_text() + (
        "preprocess: {mean: [0.286], std: [0.353], channels: 1}\n"
    )
    (tmp_path / "portable.yaml").write_text(text + "quantize: {portable: true}\n")
    result = _invoke(
        "quantize", baseline / "model.onnx", "--output", tmp_path / "q.onnx",
        "--data", "fashion-mnist", "--recipe", tmp_path / "portable.yaml",
        "--table", baseline / "calibration_table.json", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    account = json.loads((tmp_path / "q.json").read_text())
    assert account["rules"]["name"] == "portable"

    (tmp_path / "equalize.yaml").write_text(text + "quantize: {equalize: true}\n")
    result = _invoke(
        "sensitivity", baseline / "model.onnx", "--target", "onnxruntime", "--samples", "2",
        "--data", "fashion-mnist", "--recipe", tmp_path / "equalize.yaml",
        "--table", baseline / "calibration_table.json", "--json",
    )  # fmt: skip
    assert result.exit_code != 0, "the table is of the network that is not equalized"
    assert "the calibration table is of model" in json.loads(result.stdout)["error"]["message"]


def test_measuring_without_images_is_a_usage_error(workplace, tmp_path):
    baseline = workplace / "out" / "baseline"
    with pytest.raises(UsageError, match="measures on images"):
        edgeres.quantize(
            baseline / "model.onnx",
            baseline / "calibration_table.json",
            tmp_path / "q.onnx",
            rules=get_backend("onnxruntime").qdq_rules("cpu"),
            settings=QuantizeBlock(rounding="learned"),
        )


def test_a_strict_limit_ends_with_one(workplace, tmp_path):
    result = _invoke(
        "convert", workplace / "recipe.yaml", "--output", workplace / "out", "--max-drop", "0"
    )
    assert result.exit_code == 1
    assert "FAIL" in result.output or "INCONCLUSIVE" in result.output


def test_validate_benchmark_and_inspect_take_what_convert_made(workplace, report):
    name = next(n for n, t in report["targets"].items() if t["executed"])
    engine = workplace / "out" / report["targets"][name]["engine"]
    inspected = _invoke("inspect", engine, "--json")
    assert inspected.exit_code == 0, inspected.output
    assert json.loads(inspected.stdout)["int8_coverage"] == report["targets"][name]["int8_coverage"]
    refused = _invoke("validate", engine, "--json")
    assert refused.exit_code == 3, "the baseline has 400 images, the whole set 10,000"
    timed = _invoke("benchmark", engine, "--seconds", "0.2", "--json")
    assert timed.exit_code in (0, 1), timed.output
    assert json.loads(timed.stdout)["engines"][str(engine)]["latency_ms"]["p50"] > 0


class _Canary:
    def __reduce__(self):
        return (Path.touch, (Path("canary"),))


def _bad_inputs(folder: Path) -> dict[str, tuple[list[object], int, str]]:
    """Name to arguments, exit code and a word of the message."""
    import torch

    from edgeres.models.checkpoint import load_checkpoint

    reference = load_checkpoint(asset_path("recipes", CHECKPOINT))
    state = dict(reference.state)
    torch.save({**state, "fc.bias": state["fc.bias"] * np.nan}, folder / "nan.pt")
    (folder / "evil.pt").write_bytes(pickle.dumps({"state_dict": _Canary()}))
    (folder / "empty.pt").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:5000])
    for name, count in (("few", 0), ("two", 450)):
        images = np.zeros((count, 28, 28), np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (folder / f"{name}-images.gz").write_bytes(gzip.compress(head + images.tobytes()))
        labels = (np.arange(count) % 3).astype(np.uint8)
        head = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        (folder / f"{name}-labels.gz").write_bytes(gzip.compress(head + labels.tobytes()))
    (folder / "unknown.yaml").write_text((folder / "recipe.yaml").read_text() + "quantise: {}\n")
    recipe = folder / "recipe.yaml"
    idx = {n: f"idx:{folder}/{n}-images.gz,{folder}/{n}-labels.gz" for n in ("few", "two")}
    return {
        "missing model": ([recipe, "--model", folder / "none.pt"], 3, "no such model file"),
        "missing recipe": ([folder / "none.yaml"], 2, "no such recipe"),
        "unknown key": ([folder / "unknown.yaml"], 2, "Did you mean `quantize`"),
        "NaN weights": ([recipe, "--model", folder / "nan.pt"], 3, "fc.bias"),
        "pickle with code": ([recipe, "--model", folder / "evil.pt"], 3, "evil.pt"),
        "empty checkpoint": ([recipe, "--model", folder / "empty.pt"], 3, "empty.pt"),
        "cut checkpoint": ([recipe, "--model", folder / "cut.safetensors"], 3, "cut.safetensors"),
        "empty data": ([recipe, "--data", idx["few"]], 3, "images"),
        "class count": ([recipe, "--data", idx["two"], "--calibration-data", "fashion-mnist"], 3,
                        "classes"),
        "no such target": ([recipe, "--target", "tpu"], 2, "no target 'tpu'"),
        "weights missing": ([recipe, "--model", "resnet18"], 2, "--weights"),
        "limit out of range": ([recipe, "--max-drop", "-3"], 2, "max_drop_pp"),
        "no preprocessing": ([recipe, "--mean", "a,b"], 2, "--mean"),
        "two weights": ([recipe, "--weights", folder / "nan.pt"], 2, "nan.pt"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "case",
    [
        "missing model",
        "missing recipe",
        "unknown key",
        "NaN weights",
        "pickle with code",
        "empty checkpoint",
        "cut checkpoint",
        "empty data",
        "class count",
        "no such target",
        "weights missing",
        "limit out of range",
        "no preprocessing",
        "two weights",
    ],
)
def test_bad_input_is_one_line_and_touches_nothing(workplace, case, monkeypatch):
    monkeypatch.chdir(workplace)
    before = _hashes(workplace / "out")
    arguments, code, word = _bad_inputs(workplace)[case]
    result = _invoke("convert", *arguments, "--output", workplace / "out")
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in result.output
    assert _hashes(workplace / "out") == before
    assert not (workplace / "canary").exists()


def test_errors_are_json_where_asked(workplace):
    result = _invoke("convert", workplace / "none.yaml", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["id"] == "recipe"
    assert error["exit_code"] == 2


def test_missing_backend_is_named_with_its_cure(workplace, monkeypatch):
    backend = get_backend("openvino")
    monkeypatch.setattr(type(backend), "missing", lambda self: "openvino is not installed.")
    result = _invoke("convert", workplace / "recipe.yaml", "--target", "openvino")
    assert result.exit_code == 4
    assert "openvino is not installed" in result.output


def test_the_default_recipe_finds_its_pruning_ready(tmp_path):
    small = {"data.validation_samples": SAMPLES, "benchmark.seconds": 0.2}
    recipe = edgeres.load_recipe(None, {**small, "targets": _installed()[:1]})
    found = edgeres.convert(recipe, tmp_path / "out")
    cached = {stage.name: stage.cached for stage in found.stages}
    assert cached["prune and fine-tune"], "make it again: see docs/pruning.md"
    assert found.pruning is not None
    assert recipe.prune is not None
    assert 0.55 < found.pruning.macs_ratio <= recipe.prune.macs_ratio
    assert abs(found.pruning.drop_pp or 0.0) < 2


def test_an_onnx_file_from_elsewhere(workplace, report, tmp_path):
    images, labels = (
        asset_path("calibration", f"fmnist-test-{part}.gz")
        for part in ("images.idx3-ubyte", "labels.idx1-ubyte")
    )
    name = next(n for n, t in report["targets"].items() if t["executed"])
    arguments = [
        "convert", "--model", workplace / "out" / "baseline" / "model.onnx",
        "--data", f"idx:{images},{labels}", "--calibration-data", "fashion-mnist",
        "--mean", "0.286", "--std", "0.353", "--target", name,
        "--output", tmp_path / "onnx", "--json",
    ]  # fmt: skip
    result = _invoke(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["model"]["name"] == "model"
    assert found["baseline"]["samples"] == 10_000
    assert found["baseline"]["top1"] > 0.94
    assert found["targets"][name]["verdict"] == "pass"
    assert found["targets"][name]["sqnr_db"] >= 34


def test_one_option_keeps_the_rest_of_the_preprocessing(workplace):
    changed = edgeres.load_recipe(workplace / "recipe.yaml", {"preprocess.crop": 28})
    facts = ModelFacts("net", 10, 1, {"mean": [0.286], "std": [0.353], "channels": 1}, ())
    preprocess = choose_preprocess(changed.preprocess, facts)
    assert preprocess.mean == (0.286,)
    assert preprocess.crop == 28


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_half_file(workplace, number, code):
    before = _hashes(workplace / "out")
    command = [
        sys.executable, "-c", "from edgeres.cli import main; main()", "convert",
        workplace / "recipe.yaml", "--output", workplace / "out", "--no-cache",
    ]  # fmt: skip

    def heed() -> None:
        """A shell that runs the tests in the background makes its children ignore SIGINT."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed,  # noqa: PLW1509 - no threads are at work here
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.strip().startswith("load"):
                break
        time.sleep(0.5)
        process.send_signal(number)
        process.stderr.read()
        assert process.wait(60) == code
    assert _hashes(workplace / "out") == before
    assert list((workplace / "out" / ".stages").glob(".*")) == []
    again = _invoke("convert", workplace / "recipe.yaml", "--output", workplace / "out")
    assert again.exit_code == 0, again.output


def test_python_call_gives_the_same_report(workplace, report):
    recipe = edgeres.load_recipe(workplace / "recipe.yaml")
    again = edgeres.convert(recipe, workplace / "out")
    assert again.targets.keys() == report["targets"].keys()
    assert again.baseline.top1 == report["baseline"]["top1"]


def test_one_portable_file_serves_every_target(workplace):
    text = (workplace / "recipe.yaml").read_text() + "quantize: {portable: true}\n"
    (workplace / "portable.yaml").write_text(text)
    out = workplace / "portable"
    result = _invoke("convert", workplace / "portable.yaml", "--output", out, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)["targets"]
    files = {(out / name / "model.qdq.onnx").read_bytes() for name in told}
    assert len(files) == 1
    for target in told.values():
        assert target["int8_coverage"] > 0.97
        assert target["saturation_safe"]
        assert target["sqnr_db"] is None or target["sqnr_db"] > 25


def test_options_of_a_target_make_a_new_engine_and_nothing_else(workplace, tmp_path):
    if "onnxruntime" not in _installed():
        pytest.skip("onnxruntime is not installed")
    shutil.copytree(workplace, tmp_path / "work")
    output = tmp_path / "work" / "out"
    options = ["--option", "onnxruntime.spinning=false"]
    arguments = ("convert", tmp_path / "work" / "recipe.yaml", "--output", output, "--json")
    result = _invoke(*arguments, *options)
    assert result.exit_code == 0, result.output
    stages = {stage["name"]: stage["cached"] for stage in json.loads(result.stdout)["stages"]}
    assert not stages["build (onnxruntime)"]
    assert not stages["inspect (onnxruntime)"]
    others = [name for name in stages if "onnxruntime" not in name and "FP32" not in name]
    assert all(stages[name] for name in others if name != "benchmark")
    sidecar = json.loads((output / "onnxruntime" / "model.onnx.engine.json").read_text())
    assert sidecar["options"] == {"spinning": "false"}
    result = _invoke(*arguments, "--option", "onnxruntime.spining=false")
    assert result.exit_code == 2
    assert "onnxruntime has no option 'spining'" in result.stdout


def test_the_report_tells_fusions_and_what_the_builder_warns_of(report):
    for name, target in report["targets"].items():
        fusions = target["fusions"]
        assert fusions["adds"] == 9
        assert fusions["relus"] == 19
        assert fusions["adds_in_products"] + fusions["adds_in_kernels"] <= 9
        assert isinstance(target["builder_warnings"], list), name
    if "openvino" in report["targets"]:
        # Its convolutions add the skip in their own accumulator.
        assert report["targets"]["openvino"]["fusions"]["adds_in_products"] == 9


def test_fp32_is_a_precision_too(workplace):
    """The FP32 engines of the network, proven as the INT8 ones are, without a claim of INT8."""
    text = RECIPE.format(samples=SAMPLES, targets=", ".join(_installed()))
    (workplace / "fp32.yaml").write_text(text + "quantize: {precision: fp32}\n")
    out = workplace / "fp32"
    result = _invoke("convert", workplace / "fp32.yaml", "--output", out, "--json")
    assert result.exit_code == 0, result.output
    for name, target in json.loads(result.stdout)["targets"].items():
        assert target["precision"] == "fp32"
        assert target["int8_coverage"] == 0
        assert "int8_coverage" not in {check["name"] for check in target["checks"]}
        assert (out / target["engine"]).is_file()
        account = json.loads((out / name / "model.qdq.json").read_text())
        assert account["quantized_nodes"] == []
        if target["executed"]:
            assert target["verdict"] == "pass"
            assert target["flips"] == {"lost": 0, "gained": 0}
    codes = {finding["code"] for finding in json.loads(result.stdout)["findings"]}
    assert "float-layers" not in codes
    refused = _invoke(
        "quantize", out / "baseline" / "model.onnx", "--output", workplace / "q.onnx",
        "--data", "fashion-mnist", "--target", "onnxruntime", "--recipe", workplace / "fp32.yaml",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert "nothing to quantize" in refused.output
