"""What people read of four commands at 40, 80 and 200 columns and in a pipe, as it was looked at.

``EDGERES_WRITE_SCREENS=1`` writes the file anew; look at the difference before it is committed.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgeres.backends.base import Engine, LayerInfo
from edgeres.backends.doctor import BackendHealth, Health
from edgeres.benchmarking.benchmark import Benchmark, EngineTimes
from edgeres.benchmarking.latency import Latency
from edgeres.benchmarking.speedup import Speedup
from edgeres.evaluation.coverage import Coverage, FloatLayer
from edgeres.evaluation.fusions import Fusions
from edgeres.evaluation.inspect import Inspection, Remarks
from edgeres.report.command_tables import benchmark_table, health_table, inspection_table
from edgeres.report.folding import FoldingTable
from edgeres.report.run_table import report_table

SCREENS = Path(__file__).with_name("screens.txt")
WIDTHS = (40, 80, 120, 200)  # the third is that of a pipe
ENGINE = Engine(Path("runs/net/openvino/model.xml"), "openvino", "cpu", "ab" * 32, {})


def latency(p50):
    return Latency(
        p50_ms=p50, p90_ms=1.2 * p50, p99_ms=2 * p50, p999_ms=None, min_ms=p50, mean_ms=p50,
        runs=900, batch_size=1, throughput_per_s=1000 / p50, first_ms=9.0,
        warmup_runs=9, overhead_ms=0.01, round_medians_ms=(p50,),
        doubts=("other work kept 1.2 of 2 CPUs busy",) if p50 > 3 else (),
        quantiles_ms=(), turns_ms=((p50,),),
    )  # fmt: skip


def screens(report):
    machine = report().environment
    times = {
        "openvino FP32": EngineTimes(ENGINE, 4_000_000, 150.0, latency(3.58), None),
        "runs/net/openvino/model.xml": EngineTimes(
            ENGINE, 1_200_000, 170.0, latency(1.23), Speedup(2.9, 2.8, 3.0, 0.95)
        ),
    }
    layers = (
        LayerInfo("stem/conv/WithoutBiases", "Convolution", "int8", ("stem.conv", "stem.relu")),
        LayerInfo("a" * 70, "Eltwise", "float32", ()),
    )
    backends = tuple(
        BackendHealth(name, missing, None, devices, {}, saturating)
        for name, missing, devices, saturating in (
            ("onnxruntime", None, ("cpu",), {"cpu": False}),
            ("tensorrt", "tensorrt is not installed. pip install edgeres[tensorrt]", (), {}),
        )
    )
    return {
        "convert": lambda console: report_table(report(), console),
        "benchmark": lambda _: benchmark_table(Benchmark(machine, 2, times)),
        "inspect": lambda _: inspection_table(
            Inspection(
                ENGINE, 1_200_000, layers,
                Coverage(0.98, 40_000_000, (FloatLayer("stem/add", 1, "float32", "an Add"),)),
                Fusions(2, 2, 3, 3), Remarks((), ()),
            )
        ),
        "doctor": lambda _: health_table(Health(machine, backends)),
    }  # fmt: skip


def drawn(make, width):
    file = io.StringIO()
    console = Console(file=file, width=width, _environ={}, markup=False)
    console.print(make(console), highlight=False)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_screens_are_as_they_were_looked_at(report):
    parts = [
        f"== {command}, {width} columns\n{drawn(make, width)}\n"
        for command, make in screens(report).items()
        for width in WIDTHS
    ]
    if os.environ.get("EDGERES_WRITE_SCREENS"):
        SCREENS.write_text("\n".join(parts))
    assert "\n".join(parts) == SCREENS.read_text()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", ["convert", "benchmark", "inspect", "doctor"])
def test_nothing_is_cut_and_no_line_is_too_long(report, command, width):
    text = drawn(screens(report)[command], width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    if command != "convert":  # which says sizes in other units where there is room
        words = re.findall(r"\S*[0-9]\S*", drawn(screens(report)[command], 500))
        assert all(word in "".join(text.split()) for word in words)


@given(
    st.lists(
        st.lists(st.text("ab1 ", min_size=1, max_size=30), min_size=3, max_size=3), max_size=4
    ),
    st.integers(10, 90),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_every_cell_is_whole_at_any_width(rows, width, wraps):
    table = FoldingTable()
    for heading, no_wrap in zip(("First", "Second", "Third"), wraps, strict=True):
        table.add_column(heading, no_wrap=no_wrap)
    for row in rows:
        table.add_row(*row)
    text = re.sub(r"\s", "", drawn(lambda _: table, width))
    for row in rows:
        for cell in row:
            letters = re.sub(r"\s", "", cell)
            assert sum(text.count(letter) for letter in letters) >= len(letters)
    assert "…" not in text
