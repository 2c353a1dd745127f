"""What tests of several parts need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeres


@dataclass
class QdqWriter:
    """Writes a network of Q/DQ pairs by hand, as some other tool might."""

    size: int = 8
    channels: int = 8
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def pair(self, x, name, scale=0.05, zero=0, dtype=np.uint8):
        told = [self.constant(f"{name}.s", np.float32(scale)), f"{name}.z"]
        self.constant(told[1], dtype(zero))
        self.add("QuantizeLinear", [x, *told], f"{name}.q")
        return self.add("DequantizeLinear", [f"{name}.q", *told], name)

    def conv(self, x, name, values=None, bias=None, groups=1):
        if values is None:
            values = np.random.default_rng(0).integers(
                -60, 60, (self.channels, self.channels, 1, 1)
            )
        rows = len(values)
        told = [
            self.constant(f"{name}.w", values.astype(np.int8)),
            self.constant(f"{name}.ws", np.full(rows, 0.005, np.float32)),
            self.constant(f"{name}.wz", np.zeros(rows, np.int8)),
        ]
        inputs = [x, self.add("DequantizeLinear", told, f"{name}.wd", axis=0)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.b", np.float32(bias)))
        return self.add("Conv", inputs, name, group=groups, pads=[(values.shape[2] - 1) // 2] * 4)

    def save(self, path, output):
        shape = [1, self.channels, self.size, self.size]
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, list("abcd"))],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 20)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


@pytest.fixture(scope="session")
def load_program() -> Iterator[Callable[[Path], ModuleType]]:
    """``load_program(file)``: a program of ``benchmarks/`` or ``scripts/`` as a module."""
    names = []

    def load(file: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"edgeres_program_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        names.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def without_vnni(load_program) -> dict[str, str]:
    """Environment of a child process that sees this CPU with AVX2 and nothing newer."""
    program = load_program(Path(__file__).parents[1] / "benchmarks" / "without_vnni.py")
    try:
        variables: dict[str, str] = program.environment()
    except program.CannotHideError as error:
        pytest.skip(str(error))
    ours = str(Path(edgeres.__file__).parents[1])
    there = variables.get("PYTHONPATH")
    return {**variables, "PYTHONPATH": os.pathsep.join([there, ours] if there else [ours])}


@pytest.fixture
def mount(tmp_path) -> Iterator[Any]:
    """``mount(options)``: a small file system in memory, where the system lets us."""
    place = tmp_path / "mounted"
    place.mkdir()
    mounted = []

    def make(options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a file system needs root")
        mounted.append(place)
        return place

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
