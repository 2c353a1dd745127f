"""Folders for trtexec and DeepStream: scripts run, keys exist, graphs compute what was proven."""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeres.backends.base import Engine, ShapeRange
from edgeres.backends.serving import ServedModel, get_server
from edgeres.backends.serving.deepstream import folded
from edgeres.backends.tensorrt.graph import read_graph
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.graph.summary import TensorSpec

LISTS = Path(__file__).parent
PREPROCESS = Preprocess(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=36, crop=32, channel_order="bgr"
)

Run = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]


def network(folder: Path, *, quantized: bool) -> Path:
    """One Conv over colour images, its mean as two scores."""
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (2, 3, 3, 3)).astype(np.int8)
    constants = {
        "s": np.float32(0.02),
        "z": np.int8(0),
        "w": weight if quantized else (weight * np.float32(0.01)).astype(np.float32),
        "ws": np.full(2, 0.01, np.float32),
        "wz": np.zeros(2, np.int8),
        "axes": np.array([2, 3], np.int64),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wd", axis=0),
    ]
    operands = ["dq", "wd"] if quantized else ["input", "w"]
    pads = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = nodes if quantized else []
    nodes += [
        helper.make_node("Conv", operands, ["y"], "conv", **pads),
        helper.make_node("Relu", ["y"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r", "axes"], ["logits"], "mean", keepdims=0),
    ]
    used = {name for node in nodes for name in node.input}
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", floats, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", floats, ["N", 2])],
        [
            numpy_helper.from_array(np.asarray(value), name)
            for name, value in constants.items()
            if name in used
        ],
    )
    path = folder / ("net.qdq.onnx" if quantized else "net.onnx")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    shapes = {"input": ShapeRange((1, 3, 32, 32), (4, 3, 32, 32), (16, 3, 32, 32))}
    engine = Engine(tmp_path / "m.plan", "tensorrt", "cuda:0", "", {"flavor": "x"}, {}, shapes)
    return ServedModel(
        "net",
        engine,
        TensorSpec("input", (None, 3, 32, 32), "float32"),
        (TensorSpec("logits", (None, 2), "float32"),),
        ("cat;dog", "bird"),
        preprocess=PREPROCESS,
        qdq=network(tmp_path, quantized=True),
        network=network(tmp_path, quantized=False),
        magnitudes={"input": 2.64, "r": 12.7},
    )


def ran(script: Path, version: str, **environment: str) -> list[str]:
    """Arguments that a script gives to a trtexec of this version."""
    tool = script.parent / "trtexec"
    tool.write_text(
        f'#!/bin/sh\n[ "$1" = --help ] && echo "&&&& RUNNING TensorRT.trtexec [TensorRT v{version}]'
        ' # trtexec" && exit 0\nfor word in "$@"; do echo "$word"; done\n'
    )
    tool.chmod(0o755)
    done = subprocess.run(
        [script],
        env={**os.environ, "TRTEXEC": str(tool), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def documented(release: str) -> set[str]:
    lines = (LISTS / "trtexec_options.txt").read_text().splitlines()
    return set(next(line.split()[1:] for line in lines if line.startswith(f"{release} ")))


@pytest.mark.parametrize(
    ("version", "release", "file", "typing"),
    [
        ("8502", "v8.6.1", "model.opset17.onnx", {"--int8", "--fp16"}),
        ("8601", "v8.6.1", "model.opset17.onnx", {"--int8", "--fp16"}),
        ("100300", "v10.3.0", "model.onnx", {"--stronglyTyped"}),
        ("110400", "v11.1", "model.onnx", set()),
    ],
)
def test_the_build_script_suits_the_tensorrt_that_is_there(
    model: ServedModel, tmp_path: Path, version: str, release: str, file: str, typing: set[str]
) -> None:
    get_server("trtexec").write([model], tmp_path / "out")
    place = tmp_path / "out" / "net"
    words = ran(place / "build.sh", version)
    assert {word.partition("=")[0] for word in words} <= documented(release)
    assert f"--onnx={file}" in words
    assert (place / "1" / file).is_file()
    assert typing == {"--int8", "--fp16", "--stronglyTyped"} & set(words)
    assert "--optShapes=input:4x3x32x32" in words
    opset = {item.version for item in onnx.load(place / "1" / file).opset_import}
    assert opset == ({17} if version < "9" and len(version) == 4 else {20})


@pytest.mark.parametrize("dla", ["", "1"])
def test_the_implicit_build_has_the_cache_of_its_version(
    model: ServedModel, tmp_path: Path, dla: str
) -> None:
    get_server("trtexec").write([model], tmp_path / "out")
    place = tmp_path / "out" / "net"
    words = ran(place / "build_implicit.sh", "8602", DLA_CORE=dla, BATCH="8")
    assert {word.partition("=")[0] for word in words} <= documented("v8.6.1")
    assert ("--useDLACore=1" in words) == bool(dla)
    assert "--maxShapes=input:8x3x32x32" in words
    (cache,) = [word.partition("=")[2] for word in words if word.startswith("--calib=")]
    head, *lines = (place / "1" / cache).read_text().splitlines()
    assert head == "TRT-8602-EntropyCalibration2"
    tensors = onnx.load(place / "1" / "float.onnx").graph
    names = {tensor.name for tensor in tensors.input} | {n.output[0] for n in tensors.node}
    scales = dict(line.split(": ") for line in lines)
    assert set(scales) == names - {"logits"}  # which stay float
    assert scales["y"] == scales["r"] != scales["input"]
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in tensors.node}
    refused = subprocess.run(
        [place / "build_implicit.sh"],
        env={**os.environ, "TRTEXEC": str(place / "new")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 4
    assert "does not say its version" in refused.stderr


def test_tensorrt_11_has_no_implicit_build(model: ServedModel, tmp_path: Path) -> None:
    get_server("trtexec").write([model], tmp_path / "out")
    with pytest.raises(AssertionError, match="no implicit INT8: use"):
        ran(tmp_path / "out" / "net" / "build_implicit.sh", "110400")


def test_the_comparison_spans_what_the_preprocessing_gives(
    model: ServedModel, tmp_path: Path
) -> None:
    get_server("trtexec").write([model], tmp_path / "out")
    lines = (tmp_path / "out" / "net" / "compare.sh").read_text().splitlines()
    first, second = (shlex.split(line) for line in lines if line.startswith("polygraphy"))
    (values,) = [word for word in first if word.startswith("input:[-")]
    low, high = (float(number) for number in values[7:-1].split(","))
    assert low == pytest.approx(-0.485 / 0.229, abs=1e-5)
    assert high == pytest.approx((1 - 0.406) / 0.225, abs=1e-5)
    assert second[2] == "model.plan"


def keys_of(config: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=True)
    parser.read_string(config.read_text())
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def test_nvinfers_arithmetic_and_the_graph_give_the_proven_answers(
    run: Run, model: ServedModel, tmp_path: Path
) -> None:
    get_server("deepstream").write([model], tmp_path / "out")
    place = tmp_path / "out" / "net"
    keys = keys_of(place / "config_infer.txt")
    lines = (LISTS / "nvinfer_keys.txt").read_text().splitlines()
    assert set(keys) <= {line for line in lines if not line.startswith("#")}
    assert keys["infer-dims"] == "3;32;32"
    assert keys["batch-size"] == "16"
    assert keys["model-color-format"] == "1"
    assert keys["network-type"] == "1"
    assert (place / keys["labelfile-path"]).read_text() == "cat,dog;bird\n"
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    planes = pixels[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)  # as BGR
    offsets = np.array([float(each) for each in keys["offsets"].split(";")], np.float32)
    fed = np.float32(keys["net-scale-factor"]) * (planes - offsets.reshape(1, 3, 1, 1))
    assert model.qdq is not None
    proven = softmax(run(onnx.load(model.qdq), PREPROCESS.normalize(pixels)))
    answers = run(onnx.load(place / "1" / "model.opset17.onnx"), fed.astype(np.float32))
    np.testing.assert_allclose(answers, proven, atol=2e-3)
    half = run(onnx.load(place / "1" / "model.onnx"), fed.astype(np.float32))
    np.testing.assert_allclose(half, proven, atol=1e-2)
    words = ran(place / "build.sh", "100300")
    assert f"--saveEngine={keys['model-engine-file'].removeprefix('1/')}" in words


def ops(graph: onnx.GraphProto) -> Sequence[str]:
    return [node.op_type for node in graph.node]


def test_what_needs_no_folding_is_not_folded(model: ServedModel) -> None:
    assert model.qdq is not None
    graph = read_graph(model.qdq)
    even, output = folded(graph, model, Preprocess(mean=(0.5,), std=(0.25,)))
    assert "Mul" not in ops(even.model.graph)
    assert output == ("probabilities",)
    again, output = folded(even, ServedModel(
        model.name, model.engine, model.input, (TensorSpec(*output, (None, 2), "float32"),), ()
    ), PREPROCESS)  # fmt: skip
    assert ops(again.model.graph).count("Softmax") == 1
    assert ops(again.model.graph)[0] == "Mul"


def test_images_that_nvinfer_cannot_feed_are_refused(model: ServedModel, tmp_path: Path) -> None:
    from dataclasses import replace

    many = replace(model, preprocess=Preprocess(channels=7))
    with pytest.raises(ModelError, match="has 7 channels; Gst-nvinfer feeds grey or colour"):
        get_server("deepstream").write([many], tmp_path / "out")
    sounds = replace(model, preprocess=Preprocess(features=True))
    with pytest.raises(ModelError, match="is for no images; Gst-nvinfer feeds"):
        get_server("deepstream").write([sounds], tmp_path / "sounds")
    other = replace(model.engine, backend="openvino")
    assert "tensorrt only" in str(get_server("deepstream").refusal(other))
    assert "tensorrt only" in str(get_server("trtexec").refusal(other))


def test_tensors_of_another_task_are_handed_on_as_they_are(
    model: ServedModel, tmp_path: Path
) -> None:
    """Gst-nvinfer has no meaning for them: no softmax, no threshold, no labels."""
    from dataclasses import replace

    other = replace(model, classifies=False, class_names=())
    get_server("deepstream").write([other], tmp_path / "out")
    place = tmp_path / "out" / "net"
    keys = dict(
        line.split("=", 1) for line in (place / "config_infer.txt").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )  # fmt: skip
    assert (keys["network-type"], keys["output-tensor-meta"]) == ("100", "1")
    assert keys["output-blob-names"] == "logits"
    assert {"classifier-threshold", "labelfile-path"}.isdisjoint(keys)
    assert not (place / "labels.txt").exists()
    graphs = [onnx.load(file).graph for file in (place / "1").glob("*.onnx")]
    assert graphs
    assert all("Softmax" not in {node.op_type for node in graph.node} for graph in graphs)
