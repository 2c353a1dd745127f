"""Commands for NVIDIA's tools: each option is one that the tool documents, at every release."""

from __future__ import annotations

import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgeres.backends.base import ShapeRange
from edgeres.backends.tensorrt.calibration_cache import calibration_cache, with_inner_tensors
from edgeres.backends.tensorrt.commands import (
    COMPATIBILITY,
    compare_commands,
    told_command,
    trtexec_command,
)
from edgeres.backends.tensorrt.graph import index_graph
from edgeres.backends.tensorrt.options import parse_options
from edgeres.errors import ModelError

LISTS = Path(__file__).parents[1]
SHAPES = {"input": ShapeRange((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))}
EVERYTHING = {
    "rest": "float16",
    "workspace_mib": "256",
    "optimization_level": "5",
    "hardware_compatibility": "ampere_plus",
    "version_compatible": "true",
    "dla_core": "1",
    "refit": "true",
    "sparse_weights": "true",
}


def documented(name: str) -> dict[str, set[str]]:
    lines = (LISTS / name).read_text().splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {release: set(options) for release, *options in rows}


def options_in(command: str) -> set[str]:
    return {word.partition("=")[0] for word in shlex.split(command) if word.startswith("--")}


@pytest.mark.parametrize("release", ["v8.6.1", "v10.3.0", "v10.13.3", "v11.1"])
def test_every_option_is_one_of_trtexecs(release: str) -> None:
    known = documented("trtexec_options.txt")[release]
    major = int(release[1:].split(".", maxsplit=1)[0])
    options = EVERYTHING if major < 10 else {**EVERYTHING, "strip_plan": "true"}
    command = trtexec_command("a b.onnx", "m.plan", parse_options(options), SHAPES, major)
    assert options_in(command) <= known
    assert len(options_in(command)) > 12
    assert ("--stronglyTyped" in command) == (major == 10)
    assert ("--int8" in command) == ("--fp16" in command) == (major == 8)
    assert "--onnx=a b.onnx" in shlex.split(command)
    assert "--optShapes=input:4x3x8x8" in command


def test_a_wrong_spelling_would_be_seen() -> None:
    known = documented("trtexec_options.txt")
    assert set(known) == {"v8.6.1", "v10.3.0", "v10.13.3", "v11.1"}
    assert "--stripWeights" not in known["v8.6.1"]
    assert "--fp16" not in known["v11.1"]
    assert not any("--stronglytyped" in options for options in known.values())
    assert set(COMPATIBILITY.values()) == {"ampere+", "sameComputeCapability"}


@pytest.mark.parametrize("release", ["0.47.1", "0.53.6"])
def test_every_option_is_one_of_polygraphys(release: str) -> None:
    commands = compare_commands("m.onnx", "m.plan", "input", (4, 3, 8, 8), (-2.1, 2.6))
    for command in commands:
        assert shlex.split(command)[:2] == ["polygraphy", "run"]
        assert options_in(command) <= documented("polygraphy_options.txt")[release]
    assert "input:[4,3,8,8]" in shlex.split(commands[0])
    assert "input:[-2.1,2.6]" in shlex.split(commands[0])


def test_what_is_told_is_for_the_tensorrt_that_built_the_plan() -> None:
    options = parse_options({})
    old = told_command(options, {}, {"tensorrt": "8.6.1", "rest": "float16"})
    assert "TensorRT 8 " in old
    assert "--onnx=model.opset17.onnx" in old
    assert "--int8 --fp16" in old
    new = told_command(options, SHAPES, {"tensorrt": "11.4.0.106", "rest": "float16"})
    assert "--onnx=model.onnx" in new
    assert "--stronglyTyped" not in new
    rtx = told_command(options, SHAPES, {"tensorrt_rtx": "1.7.1.116", "rest": "float32"})
    assert "TensorRT 10 " in rtx
    assert "--stronglyTyped" in rtx


@pytest.mark.parametrize(("readers", "low", "found"), [(1, 0, True), (2, 0, False), (1, -1, False)])
def test_the_input_of_a_relu_has_its_scale_where_nothing_else_reads_it(
    readers: int, low: float, found: bool
) -> None:
    nodes = [
        helper.make_node("Clip", ["before", "low"], ["behind"], "clip"),
        *(helper.make_node("Abs", ["before"], [f"a{i}"], f"abs{i}") for i in range(1, readers)),
    ]
    graph = helper.make_graph(
        nodes, "net", [], [], [numpy_helper.from_array(np.float32(low).reshape(()), "low")]
    )
    known = {"behind": 3.0}
    completed = with_inner_tensors(known, index_graph(helper.make_model(graph), Path("n")))
    assert completed == ({"before": 3.0, **known} if found else known)


def test_the_cache_holds_the_bits_of_each_scale() -> None:
    text = calibration_cache({"input": 2.54, "layer: 1": 0.0, "logits": 1e-30}, 8601)
    head, *lines = text.splitlines()
    assert head == "TRT-8601-EntropyCalibration2"
    scales = {}
    for line in lines:
        # As TensorRT's sample reads it: the last colon, one space, eight digits.
        name, digits = line[: line.rindex(":")], line[line.rindex(":") + 2 :]
        assert re.fullmatch("[0-9a-f]{8}", digits)
        (scales[name],) = struct.unpack(">f", bytes.fromhex(digits))
    assert scales["input"] == pytest.approx(2.54 / 127, rel=1e-7)
    assert scales["layer: 1"] > 0
    assert list(scales) == ["input", "layer: 1", "logits"]
    with pytest.raises(ModelError, match="cannot stand in a calibration cache"):
        calibration_cache({"two\nlines": 1.0}, 8601)
