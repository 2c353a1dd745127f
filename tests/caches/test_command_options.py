"""Options of the commands of one stage: whatever a command keeps, it keeps for these options.

A command does its work anew each time, unless it keeps something beside its output. Every option
must be named here as one that such a command checks, or as one that what is kept does not hold.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgeres.cli import app

from .conftest import write_images

SHOWN = {"as_json", "debug"}
PREPROCESS = {
    "scale", "mean", "std", "resize", "crop", "channel_order", "layout", "interpolation",
}  # fmt: skip
# Nothing is kept: each call does all of it.
ANEW = {
    "export": {"checkpoint", "output", "size", "opset"},
    "build": {"onnx", "output", "target", "device", "threads", "option", "shapes"},
}
# What is kept says what it is of: the calibration table (test_table_origin.py).
IN_THE_TABLE = {"onnx", "data", *PREPROCESS}
# The resumable state of a training holds all of its settings, images and first weights.
IN_THE_STATE = {
    "train": {"recipe", "start", "data"},
    "prune": {
        "checkpoint", "recipe", "macs_ratio", "data", "train_data", "epochs", "allocation",
        "target_latency", "latency_on", "threads", *PREPROCESS,
    },
    "quantize": {"train_data", "qat_epochs"},
}  # fmt: skip
EACH_TIME = {
    "train": {"output"},
    "prune": {"output"},
    "quantize": {"output", "target", "device", "table", "recipe"},
    "sensitivity": {
        "target", "device", "samples", "table", "all_but", "recipe", "threads", "task", "metric",
    },
}  # fmt: skip


def options_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(app)
    return {parameter.name for parameter in group.commands[command].params} - SHOWN


def test_every_option_is_accounted_for():
    for command, options in ANEW.items():
        assert options_of(command) == options
    for command in ("train", "prune"):
        assert options_of(command) == IN_THE_STATE[command] | EACH_TIME[command]
    assert options_of("quantize") == (
        IN_THE_TABLE | IN_THE_STATE["quantize"] | EACH_TIME["quantize"]
    )
    assert options_of("sensitivity") == IN_THE_TABLE | EACH_TIME["sensitivity"]


def test_every_setting_of_a_training_is_in_its_state():
    pytest.importorskip("torch", reason="torch is not installed")
    from edgeres.recipe.training import TrainSettings

    base = TrainSettings(epochs=4)
    same = {name for name in TrainSettings.model_fields if _other(base, name).key() == base.key()}
    assert same <= {"device", "threads", "workers"}, "what decides where, not what"


def _other(settings: Any, name: str) -> Any:
    """Settings with one of them changed, to whatever its type allows."""
    value = getattr(settings, name)
    tries: list[Any] = []
    if isinstance(value, bool):
        tries = [not value]
    elif isinstance(value, int):
        tries = [value + 1, value - 1, 1, 2]
    elif isinstance(value, float):
        tries = [value / 2, value + 0.25, 0.5, 1e-3]
    elif isinstance(value, str):
        tries = ["resnet32", "cpu", "constant", "linear", "sgd", "bfloat16", "channels_last"]
    else:
        tries = [1, 0.5, "cpu", (0.1, 0.2)]
    for other in tries:
        try:
            changed = settings.replace(**{name: other})
        except Exception:  # not a value that goes with the others
            continue
        if changed != settings:
            return changed
    pytest.skip(f"no other value of {name} is known")


@pytest.fixture
def place(kills: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    kills.write_network(tmp_path / "net.onnx")
    write_images(tmp_path / "a.npz")
    monkeypatch.setattr("edgeres.quantization.isolate.try_model", lambda path: None)
    return tmp_path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("name", ["engine", "engine.onnx"])
def test_an_engine_has_one_name_and_an_old_one_is_replaced(place, name):
    old = place / "engine.onnx"
    old.write_bytes(b"an engine of last year")
    result = run(
        "build", place / "net.onnx", "--output", place / name, "--target", "onnxruntime", "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["engine"] == str(old)
    assert old.read_bytes() == (place / "net.onnx").read_bytes()
    assert not (place / "engine.onnx.onnx").exists()
    sidecar = place / "engine.onnx.engine.json"
    before = sidecar.read_text()
    again = run(
        "build", place / "net.onnx", "--output", place / name, "--target", "onnxruntime",
        "--option", "graph_optimization=basic",
    )  # fmt: skip
    assert again.exit_code == 0, again.output
    assert sidecar.read_text() != before


def test_a_build_that_fails_leaves_no_engine_that_looks_new(place):
    first = run("build", place / "net.onnx", "--output", place / "e", "--target", "onnxruntime")
    assert first.exit_code == 0, first.output
    engine = (place / "e.onnx").read_bytes()
    (place / "bad.onnx").write_bytes(b"no model")
    result = run(
        "build", place / "bad.onnx", "--output", place / "e.onnx", "--target", "onnxruntime"
    )
    assert result.exit_code == 3
    assert (place / "e.onnx").read_bytes() == engine
    assert not (place / "e.onnx.onnx").exists()


@pytest.mark.parametrize("name", ["q", "q.onnx"])
def test_a_quantized_file_has_one_name(place, name):
    result = run(
        "quantize", place / "net.onnx", "--output", place / name, "--target", "onnxruntime",
        "--data", f"npz:{place / 'a.npz'}", "--mean", "0.286",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = {file.name for file in place.iterdir()} - {"net.onnx", "a.npz"}
    assert made == {"q.onnx", "q.json", "q.calibration.json"}


@pytest.mark.parametrize(
    "words",
    [
        ("build", "net.onnx", "--target", "onnxruntime"),
        ("quantize", "net.onnx", "--target", "onnxruntime", "--data", "fashion-mnist"),
        ("export", "net.onnx", "--size", "28"),
    ],
)
@pytest.mark.parametrize("name", ["net", "net.onnx"])
def test_what_is_read_is_not_written_over(place, words, name):
    before = (place / "net.onnx").read_bytes()
    command, source, *more = words
    result = run(command, place / source, "--output", place / name, *more)
    assert result.exit_code == 2
    assert "would be overwritten" in result.stderr
    assert (place / "net.onnx").read_bytes() == before
