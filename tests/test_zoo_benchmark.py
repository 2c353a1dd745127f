"""The pieces of the zoo benchmark that judge: shares of engines, ratios, the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def engines(load_program):
    return load_program(BENCHMARKS / "zoo_engines.py")


@pytest.fixture(scope="module")
def tables(load_program):
    return load_program(BENCHMARKS / "zoo_table.py")


def half_quantized(path: Path) -> Path:
    """Two convolutions of 27 and 36 multiply-adds for each of 64 pixels and channels; one INT8."""
    random = np.random.default_rng(0)
    arrays = {
        "first": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "second": random.integers(-60, 60, (4, 4, 3, 3)).astype(np.int8),
        "scale": np.float32(0.05),
        "zero": np.uint8(0),
        "zeros": np.zeros(4, np.int8),
        "scales": np.full(4, 0.01, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "scale", "zero"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["second", "scales", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["d", "w"], ["e"], pads=[1] * 4),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "scale", "zero"], ["g"]),
        helper.make_node("DequantizeLinear", ["g", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path
    )
    return path


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_share_is_what_the_engine_runs(engines, tmp_path, engine):
    pytest.importorskip(engine)
    file = half_quantized(tmp_path / "half.onnx")
    images = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    share = engines.int8_share(engine, file, images, tmp_path)
    assert share == pytest.approx(36 / (27 + 36))


def test_only_what_differs_from_image_to_image_is_signal(engines):
    wanted = np.array([[1000.0, 1.0], [1000.0, -1.0]], np.float32)
    assert engines.sqnr_db(wanted, wanted + 0.1) == pytest.approx(10 * np.log10(2 / 0.04), abs=0.01)


def row(ours: float, peer: float, *, time: float = 1.0, share: float = 1.0):
    def told(sqnr: float, over: float, int8: float):
        ratios = {"speedup": 2, "over_edgeres": over, "over_edgeres_quartiles": [over] * 3}
        return {"engines": {"openvino": {"sqnr_db": sqnr, "int8": int8, **ratios}}}

    return {"tools": {"edgeres": told(ours, 1.0, 1.0), "peer": told(peer, time, share)}}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (row(30.0, 30.4), None),
        (row(30.0, 30.6), "0.6 dB better"),
        (row(30.0, 30.6, time=1.2), None),
        (row(31.0, 30.6, time=0.8), "takes 0.80 of the time"),
        (row(33.0, 30.6, time=0.8), "takes 0.80 of the time"),
        (row(30.0, 20.0, share=1.2), "runs more in INT8"),
        ({"failed": "no such model"}, "no such model"),
    ],
)
def test_exceptions_are_what_a_peer_does_better(tables, found, words):
    texts = list(tables.exceptions("net", found))
    assert bool(texts) is (words is not None)
    assert all(words in text for text in texts)


def test_the_table_has_a_line_for_each_family_that_was_run(tables):
    rows = {"a": row(30.0, 28.0), "b": row(31.0, 27.0), "c": {"failed": "crashed"}}
    text = tables.table(rows, {"one": ("a", "b"), "none": ("x",), "two": ("c",)})
    assert "| one | 2 | - | - | - | 100.0 % | +3.0 dB (+2.0) | 2.00x |" in text
    assert "| none" not in text
    assert "- c: crashed" in text


def test_the_gain_is_that_of_each_image_not_of_the_worst(engines):
    wanted = np.zeros((5, 4), np.float32)
    ours, theirs = wanted + 0.1, wanted + 0.2
    ours[0] = 9.0  # one image that spoils the sum of all
    quartiles = engines.gain_quartiles(wanted, ours, theirs)
    assert quartiles[1] == pytest.approx(20 * np.log10(2), abs=0.01)
    assert quartiles == pytest.approx(quartiles[1:2] * 3, abs=0.01)


def test_a_peer_that_a_few_images_make_better_is_told_as_that(tables):
    found = row(30.0, 30.8)
    peer = found["tools"]["peer"]["engines"]["openvino"]
    peer["edgeres_gain_db_quartiles"] = (0.5, 1.5, 2.0)
    (text,) = tables.exceptions("net", found)
    assert text.endswith("by a few images: on the middle one edgeres is 1.5 dB better")
    peer["edgeres_gain_db_quartiles"] = (-2.0, -1.5, -0.5)
    (text,) = tables.exceptions("net", found)
    assert text.endswith("0.8 dB better on OpenVINO")


def test_mutations_change_files_and_the_judge_knows_the_broken_ones(load_program, tmp_path):
    fuzz = load_program(BENCHMARKS / "import_fuzz.py")
    verdicts = {fuzz.judge(seed, tmp_path, mutated=True)[0] for seed in range(5000, 5006)}
    assert "refused, as by ONNX Runtime" in verdicts
    assert not verdicts & {"wrong", "crash", "taken, unrun before"}
    model, _ = fuzz.network(5000)
    before = model.SerializeToString()
    assert fuzz.mutate(model, np.random.default_rng([5000, 2]))
    assert model.SerializeToString() != before
