"""Model repositories are what the servers document: layout, fields, types, shapes."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from edgeres.backends.base import Engine, ShapeRange
from edgeres.backends.serving import ServedModel, get_server, server_names
from edgeres.bundling.serve import serve
from edgeres.cli import app
from edgeres.errors import ArtefactError, ModelError, UsageError
from edgeres.graph.summary import TensorSpec


@pytest.fixture(scope="module")
def model_config():
    """Parses the text of a configuration into Triton's own message, as the server would."""
    try:
        from google.protobuf import text_format
        from tritonclient.grpc.model_config_pb2 import ModelConfig
    except ImportError:
        pytest.skip("tritonclient is not installed: pip install 'tritonclient[grpc]'")
    return lambda content: text_format.Parse(content, ModelConfig())


def test_text_that_is_not_tritons_does_not_parse(model_config):
    from google.protobuf.text_format import ParseError

    model_config('name: "a"\nmax_batch_size: 8\n')
    for wrong in ('title: "a"', "max_batch_size: many", "input [ { data_type: TYPE_FLOAT } ]"):
        with pytest.raises(ParseError):
            model_config(wrong)


def test_triton_repository(output, tmp_path, model_config):
    served = serve(output, "triton", tmp_path / "models")
    place, models = served.place, served.models
    report = json.loads((output / "report.json").read_text())
    assert set(models) == {f"resnet20_{target}" for target in report["targets"]}
    for name in models:
        target = name.removeprefix("resnet20_")
        config = model_config((place / name / "config.pbtxt").read_text())
        assert config.name == name
        assert config.backend == target
        assert config.max_batch_size == 64
        assert [list(t.dims) for t in config.input] == [[1, 28, 28]]
        assert [list(t.dims) for t in config.output] == [[10]]
        assert config.input[0].data_type == config.output[0].data_type == 11
        assert config.instance_group[0].kind == 2
        labels = (place / name / config.output[0].label_filename).read_text().splitlines()
        assert labels[0] == "T-shirt/top"
        assert len(labels) == 10
        source = output / report["targets"][target]["engine"]
        assert (place / name / "1" / f"model{source.suffix}").read_bytes() == source.read_bytes()


# What the server's schema says of models, in our words; test_the_servers_own_schema_takes_it has
# the schema itself.
_OVMS = {
    "type": "object",
    "required": ["model_config_list"],
    "additionalProperties": False,
    "properties": {
        "model_config_list": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["config"],
                "additionalProperties": False,
                "properties": {
                    "config": {
                        "type": "object",
                        "required": ["name", "base_path"],
                        "additionalProperties": False,
                        "properties": {
                            "name": {"type": "string"},
                            "base_path": {"type": "string"},
                            "batch_size": {"type": ["integer", "string"]},
                            "shape": {"type": ["object", "string"]},
                            "layout": {"type": ["object", "string"]},
                            "nireq": {"type": "integer", "minimum": 0},
                            "target_device": {"type": "string"},
                            "plugin_config": {"type": "object"},
                            "model_version_policy": {"type": "object"},
                        },
                    }
                },
            },
        }
    },
}


def test_openvino_model_server_repository(output, tmp_path):
    if not (output / "openvino").is_dir():
        pytest.skip("openvino is not installed")
    served = serve(output, "openvino-model-server", tmp_path / "models")
    place, models = served.place, served.models
    config = json.loads((place / "config.json").read_text())
    jsonschema.validate(config, _OVMS)
    assert models == ("resnet20_openvino",)
    (entry,) = config["model_config_list"]
    assert entry["config"]["name"] == models[0]
    version = place / entry["config"]["base_path"] / "1"
    assert sorted(file.name for file in version.iterdir()) == ["model.bin", "model.xml"]
    import openvino

    model = openvino.Core().read_model(version / "model.xml")
    settings = entry["config"]["plugin_config"]
    openvino.Core().compile_model(model, entry["config"]["target_device"], settings)


def _cpp_text(source: str, name: str) -> Any:
    """JSON in a C++ constant: raw strings and other constants, joined by plus signs."""
    source = re.sub(r"(?m)^#.*$", "", source)  # with all that is optional
    piece = r'R"\((?:.*?)\)"|[A-Z_]+'
    start = re.search(rf"\b{name} *= *", source)
    assert start is not None

    def text(at: int) -> str:
        found = ""
        for part in re.compile(rf"\s*\+?\s*({piece}|;)", re.DOTALL).finditer(source, at):
            if part[1] == ";":
                return found
            if part[1].startswith('R"('):
                found += part[1][3:-2]
            else:
                inner = re.search(rf"\b{part[1]} *= *", source)
                assert inner is not None
                found += text(inner.end())
        raise AssertionError(name)

    return json.loads(text(start.end()))


def test_the_servers_own_schema_takes_it(output, tmp_path):
    """EDGERES_OVMS_SCHEMA names src/schema.cpp of a copy of the server's repository."""
    source = os.environ.get("EDGERES_OVMS_SCHEMA")
    if source is None:
        pytest.skip("EDGERES_OVMS_SCHEMA does not name OpenVINO Model Server's src/schema.cpp")
    if not (output / "openvino").is_dir():
        pytest.skip("openvino is not installed")
    schema = _cpp_text(Path(source).read_text(encoding="utf-8"), "MODELS_CONFIG_SCHEMA")
    place = serve(output, "openvino-model-server", tmp_path / "models").place
    config = json.loads((place / "config.json").read_text())
    jsonschema.validate(config, schema)
    config["model_config_list"][0]["config"]["colour"] = "red"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, schema)


def test_a_report_that_names_an_engine_elsewhere_is_refused(output, tmp_path):
    folder, secret = tmp_path / "run", tmp_path / "secret"
    shutil.copytree(output, folder)
    report = json.loads((folder / "report.json").read_text())
    target, part = next(iter(report["targets"].items()))
    engine = folder / part["engine"]
    shutil.copytree(engine.parent, secret)
    report["targets"][target]["engine"] = f"../secret/{engine.name}"
    (folder / "report.json").write_text(json.dumps(report))
    with pytest.raises(ArtefactError, match="outside"):
        serve(folder, "triton", targets=[target])
    assert not (folder / "serve-triton").exists()


def test_an_earlier_repository_is_replaced_and_nothing_else(output, tmp_path):
    place = serve(output, "triton", tmp_path / "models").place
    marker = place / next(place.iterdir()).name / "old"
    marker.write_text("x")
    serve(output, "triton", place)
    assert not marker.exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("precious")
    with pytest.raises(UsageError, match="no model repository"):
        serve(output, "triton", tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "models"]


def _model(tmp_path: Path, backend: str, **changes) -> ServedModel:
    (tmp_path / "model.plan").write_bytes(b"plan")
    versions = changes.pop("versions", {})
    engine = Engine(tmp_path / "model.plan", backend, "cuda:0", "", versions)
    values = {
        "name": 'odd "name"',
        "engine": engine,
        "input": TensorSpec("image", (4, 3, 8, 8), "float32"),
        "outputs": (TensorSpec("scores", (4, 2), "float32"),),
        "class_names": ("a", "b"),
    }
    return ServedModel(**{**values, **changes})


def test_a_fixed_batch_and_a_gpu(tmp_path, model_config):
    model = _model(tmp_path, "tensorrt")
    get_server("triton").write([model], tmp_path / "models")
    config = model_config((tmp_path / "models" / model.name / "config.pbtxt").read_text())
    assert config.name == model.name
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, 3, 8, 8]
    assert config.instance_group[0].kind == 1
    assert not config.HasField("dynamic_batching")
    assert (tmp_path / "models" / model.name / "1" / "model.plan").read_bytes() == b"plan"


def test_a_network_of_another_task_has_all_its_outputs_and_no_labels(tmp_path, model_config):
    outputs = (
        TensorSpec("age", (4, 1), "float32"),
        TensorSpec("map", (4, 3, 8, 8), "float32"),
    )
    model = _model(tmp_path, "tensorrt", outputs=outputs, class_names=(), classifies=False)
    get_server("triton").write([model], tmp_path / "models")
    place = tmp_path / "models" / model.name
    config = model_config((place / "config.pbtxt").read_text())
    assert [(one.name, list(one.dims), one.label_filename) for one in config.output] == [
        ("age", [4, 1], ""), ("map", [4, 3, 8, 8], ""),
    ]  # fmt: skip
    assert not (place / "labels.txt").exists()


def test_a_batch_is_as_large_as_the_engine_takes(tmp_path, model_config):
    model = _model(
        tmp_path,
        "tensorrt",
        input=TensorSpec("image", (None, 3, 8, 8), "float32"),
        outputs=(TensorSpec("scores", (None, 2), "float32"),),
    )

    def limited(low, high):
        ends = ShapeRange((low, 3, 8, 8), (high, 3, 8, 8), (high, 3, 8, 8))
        return replace(model, engine=replace(model.engine, shapes={"image": ends}))

    get_server("triton").write([limited(1, 32)], tmp_path / "models")
    config = model_config((tmp_path / "models" / model.name / "config.pbtxt").read_text())
    assert config.max_batch_size == 32
    assert get_server("triton").refusal(limited(1, 32).engine) is None
    assert "takes 2 and more" in str(get_server("triton").refusal(limited(2, 32).engine))


@pytest.mark.parametrize(("batches", "profiles"), [("8", []), ("1,8", ["0", "1"])])
def test_triton_is_told_of_several_profiles(tmp_path, model_config, batches, profiles):
    model = _model(tmp_path, "tensorrt", versions={"opt_batch": batches})
    get_server("triton").write([model], tmp_path / "models")
    config = model_config((tmp_path / "models" / model.name / "config.pbtxt").read_text())
    assert list(config.instance_group[0].profile) == profiles


def test_what_a_server_cannot_run_is_said(output, tmp_path):
    rtx = _model(tmp_path, "tensorrt", versions={"flavor": "tensorrt_rtx"}).engine
    assert "TensorRT for RTX" in str(get_server("triton").refusal(rtx))
    assert get_server("triton").refusal(_model(tmp_path, "null").engine)
    free = _model(tmp_path, "tensorrt", input=TensorSpec("i", (None, 3, None, 8), "float32"))
    with pytest.raises(ModelError, match="free size"):
        get_server("triton").write([free], tmp_path / "models")
    with pytest.raises(UsageError, match="no server 'apache'"):
        serve(output, "apache")
    with pytest.raises(UsageError, match="no engine for 'tpu'"):
        serve(output, "triton", targets=["tpu"])
    if (output / "onnxruntime").is_dir():
        with pytest.raises(UsageError, match="openvino only"):
            serve(output, "openvino-model-server", targets=["onnxruntime"])


def test_the_command(output, tmp_path):
    assert server_names() == ("deepstream", "openvino-model-server", "triton", "trtexec")
    shutil.copytree(output, tmp_path / "out", ignore=shutil.ignore_patterns(".stages"))
    made = CliRunner().invoke(app, ["bundle", str(tmp_path / "out"), "--serve", "triton", "--json"])
    assert made.exit_code == 0, made.output
    place = Path(json.loads(made.stdout)["repository"])
    assert place == tmp_path / "out" / "serve-triton"
    assert (place / json.loads(made.stdout)["models"][0] / "config.pbtxt").is_file()
    bad = ["bundle", str(tmp_path / "out"), "--serve", "triton", "--license", "MIT"]
    assert CliRunner().invoke(app, bad).exit_code == 2


def test_what_is_left_out_is_told(output, tmp_path):
    if not ((output / "openvino").is_dir() and (output / "onnxruntime").is_dir()):
        pytest.skip("the run has one engine")
    place = tmp_path / "models"
    served = serve(output, "openvino-model-server", place)
    assert served.models == ("resnet20_openvino",)
    assert list(served.left_out) == ["onnxruntime"]
    arguments = ["bundle", str(output), "--serve", "openvino-model-server", "--output", str(place)]
    made = CliRunner().invoke(app, [*arguments, "--json"])
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["left_out"] == served.left_out
    told = f"warning: the engine for onnxruntime is left out: {served.left_out['onnxruntime']}"
    assert made.stderr.count("warning: the engine for onnxruntime") == 1
    assert told in made.stderr
