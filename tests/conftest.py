"""What tests of several parts need."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from edgeres.benchmarking import benchmark, latency

from . import both_cpus, workers


def pytest_addoption(parser: pytest.Parser) -> None:
    """What ``tests/both_cpus.py`` is told."""
    parser.addoption(
        "--native-only",
        action="store_true",
        help="do not run what computes INT8 a second time, as on a CPU without VNNI",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers what makes everything that computes INT8 run on both kinds of CPU."""
    settings.register_profile("any machine", deadline=None)  # times say nothing where others work
    settings.load_profile("any machine")
    config.addinivalue_line(
        "markers", "any_cpu(why): runs INT8 engines, yet not again without VNNI, for this reason"
    )
    config.pluginmanager.register(both_cpus.BothCpus(config), "both_cpus")
    config.pluginmanager.register(workers.Workers(config), "workers")


@pytest.fixture(scope="session", autouse=True)
def short_times() -> Iterator[None]:
    """An engine is warm after three blocks: other tests keep times from agreeing, up to 5 s each.

    It is measured for 0.1 s at most, without a rest before each turn. ``tests/benchmarking`` holds
    the warm-up and whole times to the proof.
    """

    def measure(*args: Any, settings: latency.MeasureSettings | None = None, **named: Any) -> Any:
        settings = settings or latency.MeasureSettings()
        short = replace(settings, seconds=min(settings.seconds, 0.1), pause_seconds=0.0)
        return latency.measure(*args, settings=short, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "_WARM_CHANGE", float("inf"))
        patch.setattr(benchmark, "measure", measure)
        yield


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
def until() -> Callable[[Callable[[], object]], None]:
    """``until(condition)`` waits for what must come, up to a minute on a busy machine."""

    def wait(condition: Callable[[], object]) -> None:
        limit = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < limit, "it has not come within a minute"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def load_program() -> Callable[[Path], ModuleType]:
    """``load_program(file)``: a program of ``benchmarks/`` or ``scripts/`` as a module."""
    return both_cpus.load_program


@pytest.fixture(scope="session")
def without_vnni() -> dict[str, str]:
    """Environment of a child process that sees this CPU with AVX2 and nothing newer."""
    try:
        return both_cpus.older_cpu()
    except both_cpus.CannotRunError as error:
        pytest.skip(str(error))


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
