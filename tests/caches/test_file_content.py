"""Every file that a run reads, changed in place by a byte: the source or the set is another one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeres.pipeline.find_source import _weight_files, find_source
from edgeres.recipe.recipe import ModelBlock


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose weights lie in a folder below its own, under names of any length."""
    names = ["w.bin", "deep/er/w.bin", f"{'n' * 200}.bin"]
    tensors = []
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(np.full(4, number, np.float32).tobytes())
        tensor = TensorProto(name=f"t{number}", dims=[4], data_type=TensorProto.FLOAT)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", "0"), ("length", "16")):
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    graph = helper.make_graph([helper.make_node("Add", ["x", "t0"], ["y"])], "g", [x], [y], tensors)
    (tmp_path / "net.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return tmp_path


def sha256(file: Path) -> str:
    return find_source(ModelBlock(source=str(file))).sha256


@pytest.mark.parametrize("changed", ["net.onnx", "w.bin", "deep/er/w.bin", f"{'n' * 200}.bin"])
def test_a_model_is_another_one_when_any_of_its_files_changes(external, changed):
    before = sha256(external / "net.onnx")
    assert sha256(external / "net.onnx") == before
    (external / "unrelated.bin").write_bytes(b"x")
    assert sha256(external / "net.onnx") == before
    raw = bytearray((external / changed).read_bytes())
    raw[-1] ^= 1
    (external / changed).write_bytes(raw)
    assert sha256(external / "net.onnx") != before


def test_places_of_weights_are_those_that_onnx_reads(external):
    model = onnx.load(external / "net.onnx", load_external_data=False)
    told = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert _weight_files((external / "net.onnx").read_bytes()) == told


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a\x08location\x12", b"\x0a\x08location\x12\xff\xff\xff\xff",
        b"\x0a\x08location\x12\x09/etc/none", b"\x0a\x08location\x12\x07../none",
        b"\x0a\x08location\x12\x03a\x00b", b"\x0a\x08location\x12\xac\x02" + b"n" * 300,
    ],
)  # fmt: skip
def test_a_hostile_place_is_left_to_the_check_that_refuses_it(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(b"head" + content)
    (tmp_path / "other.onnx").write_bytes(b"head")
    assert sha256(tmp_path / "net.onnx") != sha256(tmp_path / "other.onnx")


def test_what_lies_beside_a_checkpoint_counts_but_is_not_its_hash(kills: ModuleType, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    block = ModelBlock(source=str(tmp_path / "net.safetensors"))
    before = find_source(block)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["resnet18"]}))
    after = find_source(block)
    assert after.sha256 == before.sha256
    assert after.beside != before.beside
    (tmp_path / "results.json").write_text("{}")
    assert find_source(block) == after
