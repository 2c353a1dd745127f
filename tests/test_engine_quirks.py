"""A short search for engine quirks, and that it finds the ones that are planted."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeres.backends import get_backend
from edgeres.quantization.calibrate import calibrate
from edgeres.quantization.quantize import quantize

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "engine_quirks.py"
SHORT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import engine_quirks as quirks
found = quirks.summary(list(quirks.search(range(700, 730), quirks.pairings(), each=False)))
print(json.dumps({**found, "saturating": quirks.pairings()[0].rules.saturating}))
"""


@pytest.fixture(scope="module")
def quirks(load_program):
    return load_program(PROGRAM)


@pytest.fixture(scope="module")
def wanted(quirks):
    return quirks.pairings()


def varied(quirks, turn, turns):
    """Of the 170 first networks those of one pairing with the most unlike parts and neighbours."""
    left = {}
    for seed in range(turn, 170, turns):
        kinds = [" ".join(re.findall("[A-Za-z_]+", part)) for part in quirks.draw(seed).parts]
        left[seed] = {*kinds, *itertools.pairwise(kinds)}
    seen = set()
    for _ in range(6):
        best = max(left, key=lambda seed: len(left[seed] - seen))
        seen |= left.pop(best)
        yield best


def test_engines_compute_what_their_files_say(quirks, wanted):
    turns = len(wanted)
    seeds = [seed for turn in range(turns) for seed in varied(quirks, turn, turns)]
    found = quirks.summary(list(quirks.search(seeds, wanted, each=False)))
    assert found["unexplained_runs"] == []
    assert found["networks"] > 25
    # Not only within the tolerance: where an engine rounds as the file says, it is there exactly.
    assert all(each["median"] < 0.3 for each in found["steps"].values())


def test_engines_do_so_without_vnni(without_vnni):
    result = subprocess.run(
        [sys.executable, "-c", SHORT, str(PROGRAM.parent)],
        capture_output=True,
        text=True,
        check=True,
        env=without_vnni,
        timeout=900,
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["unexplained_runs"] == []
    assert found["networks"] > 16
    assert found["saturating"]


@pytest.mark.slow
def test_five_thousand_networks(quirks, wanted):
    found = quirks.summary(list(quirks.search(range(5000), wanted, each=False)))
    assert found["unexplained_runs"] == []


class Planted:
    """A real engine whose builder first damages the file, as an engine with a quirk would."""

    def __init__(self, name, damage):
        self._real, self._damage = get_backend(name), damage

    def __getattr__(self, name):
        return getattr(self._real, name)

    def build(self, source, out, config):
        model = onnx.load(source)
        self._damage(model.graph)
        damaged = source.with_name("damaged.onnx")
        onnx.save(model, damaged)
        return self._real.build(damaged, out, config)


def constants(graph):
    return {each.name: numpy_helper.to_array(each) for each in graph.initializer}


def pad_with_integer_zero(graph):
    """Convolutions of tensors whose zero point is not 0 pad with the number that integer 0 is."""
    known = constants(graph)
    makers = {node.output[0]: node for node in graph.node}
    for node in list(graph.node):
        pads = [list(a.ints) for a in node.attribute if a.name == "pads"]
        maker = makers.get(node.input[0])
        if node.op_type != "Conv" or not any(pads[0]) or maker is None:
            continue
        if maker.op_type != "DequantizeLinear":
            continue
        scale, zero = (known[name] for name in maker.input[1:3])
        name = f"{node.name}_planted"
        rank = len(pads[0]) // 2
        amounts = [0, 0, *pads[0][:rank], 0, 0, *pads[0][rank:]]
        graph.initializer.append(numpy_helper.from_array(np.array(amounts, np.int64), f"{name}_a"))
        value = np.float32(-float(scale) * int(zero))
        graph.initializer.append(numpy_helper.from_array(value, f"{name}_v"))
        pad = helper.make_node("Pad", [node.input[0], f"{name}_a", f"{name}_v"], [name], name=name)
        graph.node.insert(list(graph.node).index(node), pad)
        node.input[0] = name
        for attribute in node.attribute:
            if attribute.name == "pads":
                attribute.ints[:] = [0] * len(pads[0])


def clip_weights(graph):
    """Weights above 7 bits are clipped: a mild form of saturation."""
    for each in graph.initializer:
        if each.name.endswith("weight_quantized"):
            clipped = np.clip(numpy_helper.to_array(each), -64, 64)
            each.CopyFrom(numpy_helper.from_array(clipped, each.name))


def shift_biases(graph):
    """The biases of one layer wrap around."""
    for each in graph.initializer:
        if each.name.endswith("bias_quantized"):
            each.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(each), each.name))
            return


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("damage", [pad_with_integer_zero, clip_weights, shift_biases])
def test_a_planted_quirk_is_found(quirks, wanted, name, damage):
    own = [pairing for pairing in wanted if pairing.rules.name == f"{name}-cpu"]
    if damage is shift_biases:
        own = [replace(own[0], rules=replace(own[0].rules, bias="int32"))]
    outcomes = list(quirks.search(range(6), own, each=True, backends={name: Planted(name, damage)}))
    assert sum(bool(outcome.problem) for outcome in outcomes) >= 2


def test_the_file_is_evaluated_as_onnx_defines_it(quirks, wanted, load_program, tmp_path):
    judge = load_program(PROGRAM.with_name("quirk_judge.py"))
    compared = 0
    for seed in range(7):
        network = quirks.draw(seed)
        source, qdq = tmp_path / "network.onnx", tmp_path / "qdq.onnx"
        try:
            source.write_bytes(quirks._normalized(network))
            table = calibrate(source, [network.images], threads=1)
        except quirks.EdgeResError:
            continue
        quantize(source, table, wanted[0].rules, qdq)
        model = onnx.load(qdq)
        right = judge.expected(model, network.images)
        (by_definition,) = ReferenceEvaluator(model).run(None, {"x": network.images})
        assert right.steps(by_definition) <= 0.5, network.parts
        compared += 1
    assert compared >= 5
