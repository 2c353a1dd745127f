"""Bad input is named on one line, or left out and named; nothing else is touched."""

import gzip
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.data.sampling import take
from edgeres.data.source import open_dataset
from edgeres.system.assets import asset_path

from .conftest import CHECKPOINT, RECIPE, hashes, invoke


class _Canary:
    def __reduce__(self):
        return (Path.touch, (Path("canary"),))


@pytest.fixture(scope="module")
def bad_folder(workplace, tmp_path_factory):
    """A copy of the workplace, and in it files that are no good.

    A run that ends early may keep stages that succeeded.
    """
    folder = shutil.copytree(workplace, tmp_path_factory.mktemp("bad") / "work")
    _write_bad_files(folder)
    return folder


def _write_bad_files(folder: Path) -> None:
    import torch

    from edgeres.models.checkpoint import load_checkpoint

    reference = load_checkpoint(asset_path("recipes", CHECKPOINT))
    state = dict(reference.state)
    torch.save({**state, "fc.bias": state["fc.bias"] * np.nan}, folder / "nan.pt")
    (folder / "evil.pt").write_bytes(pickle.dumps({"state_dict": _Canary()}))
    (folder / "empty.pt").write_bytes(b"")
    (folder / "cut.safetensors").write_bytes((folder / "net.safetensors").read_bytes()[:5000])
    for name, count in (("few", 0), ("more", 450)):
        images = np.zeros((count, 28, 28), np.uint8)
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in images.shape)
        (folder / f"{name}-images.gz").write_bytes(gzip.compress(head + images.tobytes()))
        labels = (np.arange(count) % 12).astype(np.uint8)
        head = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        (folder / f"{name}-labels.gz").write_bytes(gzip.compress(head + labels.tobytes()))
    (folder / "unknown.yaml").write_text((folder / "recipe.yaml").read_text() + "quantise: {}\n")


def _bad_inputs(folder: Path) -> dict[str, tuple[list[object], int, str]]:
    """Name to arguments, exit code and a word of the message."""
    recipe = folder / "recipe.yaml"
    idx = {n: f"idx:{folder}/{n}-images.gz,{folder}/{n}-labels.gz" for n in ("few", "more")}
    return {
        "missing model": ([recipe, "--model", folder / "none.pt"], 3, "no such model file"),
        "missing recipe": ([folder / "none.yaml"], 2, "no such recipe"),
        "unknown key": ([folder / "unknown.yaml"], 2, "Did you mean `quantize`"),
        "NaN weights": ([recipe, "--model", folder / "nan.pt"], 3, "fc.bias"),
        "pickle with code": ([recipe, "--model", folder / "evil.pt"], 3, "evil.pt"),
        "empty checkpoint": ([recipe, "--model", folder / "empty.pt"], 3, "empty.pt"),
        "cut checkpoint": ([recipe, "--model", folder / "cut.safetensors"], 3, "cut.safetensors"),
        "empty data": ([recipe, "--data", idx["few"]], 3, "images"),
        "class count": ([recipe, "--data", idx["more"], "--calibration-data", "fashion-mnist"], 3,
                        "classes"),
        "no such target": ([recipe, "--target", "tpu"], 2, "no target 'tpu'"),
        "weights missing": ([recipe, "--model", "resnet18"], 2, "--weights"),
        "limit out of range": ([recipe, "--max-drop", "-300"], 2, "max_drop"),
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
def test_bad_input_is_one_line_and_touches_nothing(bad_folder, case, monkeypatch):
    monkeypatch.chdir(bad_folder)
    before = hashes(bad_folder / "out")
    arguments, code, word = _bad_inputs(bad_folder)[case]
    result = invoke("convert", *arguments, "--output", bad_folder / "out")
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert word in lines[0]
    assert "Traceback" not in result.output
    assert hashes(bad_folder / "out") == before
    assert not (bad_folder / "canary").exists()


def test_a_bad_image_is_left_out_and_named(own_copy, report, tmp_path):
    from PIL import Image

    engine = own_copy / "out" / report["targets"]["onnxruntime"]["engine"]
    folder = tmp_path / "images"
    dataset = take(open_dataset("fashion-mnist", split="validation"), 300)
    for index in range(300):
        label = int(dataset.labels[index])
        place = folder / "val" / f"{label}" / f"{index:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(dataset.image(index))).save(place)
    first = sorted((folder / "val").rglob("*.png"))[0]
    first.write_bytes(b"\x89PNG")
    options = ("--data", f"imagefolder:{folder}", "--max-drop", "5", "--json")
    baseline = own_copy / "out" / "baseline" / "model.onnx"
    result = invoke("validate", engine, *options, "--baseline", baseline)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["samples"] == 299
    assert first.name in told["left_out"]
    recipe = RECIPE.format(samples=300, targets="onnxruntime").replace(
        "data: {", f"data: {{validation: 'imagefolder:{folder}', "
    )
    (own_copy / "bad.yaml").write_text(recipe)
    result = invoke(
        "convert", own_copy / "bad.yaml", "--trust-recipe", "--output", tmp_path / "o", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["baseline"]["samples"] == 299


def test_errors_are_json_where_asked(workplace):
    result = invoke("convert", workplace / "none.yaml", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["id"] == "recipe"
    assert error["exit_code"] == 2


def test_missing_backend_is_named_with_its_cure(workplace, monkeypatch):
    backend = get_backend("openvino")
    monkeypatch.setattr(type(backend), "missing", lambda self: "openvino is not installed.")
    result = invoke("convert", workplace / "recipe.yaml", "--target", "openvino")
    assert result.exit_code == 4
    assert "openvino is not installed" in result.output
