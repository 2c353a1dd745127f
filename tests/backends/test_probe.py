"""The probe against real engines: on this CPU as it is, and on one without VNNI.

A CPU without VNNI is had by two real means: oneDNN (inside OpenVINO) can be told to use no more
than AVX2, and `benchmarks/without_vnni.py` hides what is newer from both engines.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.backends import get_backend
from edgeres.backends.probe import ProbeShape, saturates, shared_products, wrong_lowest_weight
from edgeres.errors import BackendMissingError, UsageError

ASK = """
import json, sys
from edgeres.backends import get_backend
from edgeres.backends.probe import ProbeShape, shared_products
backend = get_backend(sys.argv[1])
shapes = [ProbeShape(*shape) for shape in json.loads(sys.argv[2])]
answers = [shared_products(backend, shape) for shape in shapes]
print(json.dumps([backend.qdq_rules("cpu").saturating, answers]))
"""
EVEN, ODD, GREY, FEW, MATRIX = (
    ("Conv", 8, 1),
    ("Conv", 7, 1),
    ("Conv", 1, 3),
    ("Conv", 3, 3),
    ("Gemm", 7),
)


def ask(backend, shapes, environment):
    done = subprocess.run(
        [sys.executable, "-c", ASK, backend, json.dumps(shapes)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    saturating, answers = json.loads(done.stdout)
    pairs = [[tuple(map(tuple, pair)) for pair in answer] for answer in answers]
    return saturating, dict(zip(shapes, pairs, strict=True))


def neighbours(order):
    """Pairs of first and second, third and fourth, ... of a sequence of weight positions."""
    return sorted(tuple(sorted(pair)) for pair in zip(order[::2], order[1::2], strict=False))


def channels(count):
    return [(channel, 0, 0) for channel in range(count)]


def row_column_channel(count, kernel):
    places = range(kernel)
    return [(c, row, column) for row in places for column in places for c in range(count)]


def runtime(name):
    backend = get_backend(name)
    reason = backend.missing()
    if reason is not None:
        pytest.skip(f"{name}: {reason}")
    return backend


x86 = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the instruction is x86's"
)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_both_questions_have_one_answer_on_this_cpu(name):
    backend = runtime(name)
    pairs = shared_products(backend, ProbeShape("Conv", 8))
    assert bool(pairs) == saturates(backend, "cpu") == backend.qdq_rules("cpu").saturating
    assert pairs in ((), tuple(neighbours(channels(8))))


@x86
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_x86_adds_weights_of_the_lowest_value_rightly(name):
    assert not wrong_lowest_weight(runtime(name), "cpu")


@x86
@pytest.mark.parametrize("means", ["oneDNN's own switch", "no newer instruction sets"])
def test_openvino_without_vnni(means, request):
    runtime("openvino")
    if means == "oneDNN's own switch":
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    else:
        environment = request.getfixturevalue("without_vnni")
    saturating, pairs = ask("openvino", [EVEN, ODD, GREY, FEW, MATRIX], environment)
    assert saturating
    assert pairs[EVEN] == neighbours(channels(8))
    assert pairs[ODD] == neighbours(channels(7))
    assert pairs[MATRIX] == neighbours(channels(7))
    assert pairs[GREY] == []
    # Channels 0 and 1 at the same place of the kernel; channel 2 is left alone.
    places = [(row, column) for row in range(3) for column in range(3)]
    assert pairs[FEW] == [((0, *place), (1, *place)) for place in places]


@x86
def test_openvino_with_avx512_but_without_vnni():
    runtime("openvino")
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or "avx512bw" not in cpu.read_text():
        pytest.skip("this CPU has no AVX-512")
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    saturating, pairs = ask("openvino", [EVEN, GREY, FEW], environment)
    assert saturating
    assert pairs[EVEN] == neighbours(channels(8))
    # Here even one channel pairs: the first two columns of each row of the kernel.
    assert pairs[GREY] == [((0, row, 0), (0, row, 1)) for row in range(3)]
    places = [(row, column) for row in range(3) for column in range(3)]
    assert pairs[FEW] == [((0, *place), (1, *place)) for place in places]


@x86
def test_onnxruntime_without_vnni(without_vnni):
    runtime("onnxruntime")
    saturating, pairs = ask("onnxruntime", [EVEN, ODD, GREY, FEW, MATRIX], without_vnni)
    assert saturating
    assert pairs[EVEN] == neighbours(channels(8))
    assert pairs[ODD] == neighbours(channels(7))
    assert pairs[MATRIX] == neighbours(channels(7))
    # Neighbours in the order kernel row, kernel column, channel.
    assert pairs[GREY] == neighbours(row_column_channel(1, 3))
    assert pairs[FEW] == neighbours(row_column_channel(3, 3))


@pytest.mark.parametrize(
    "shape",
    [
        ProbeShape("Conv", 1),
        ProbeShape("Conv", 64, kernel=3),
        ProbeShape("Conv", 6, groups=4),
        ProbeShape("Gemm", 161),
    ],
)
def test_shapes_that_cannot_be_probed(shape):
    with pytest.raises(UsageError, match="weights for each output"):
        shared_products(get_backend("onnxruntime"), shape)


def test_a_device_that_is_not_here():
    with pytest.raises(BackendMissingError):
        saturates(runtime("openvino"), "cuda:7")
