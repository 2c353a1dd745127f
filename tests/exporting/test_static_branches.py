"""Branches that only shapes decide are taken out; those that look at an image are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from edgeres.errors import ModelError
from edgeres.exporting.import_onnx import import_onnx
from edgeres.exporting.real_parity import compare_files
from edgeres.exporting.static_branches import without_branches
from edgeres.graph.session import open_session, run_session

RANDOM = np.random.default_rng(7)
WEIGHTS = {
    "w": RANDOM.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "ones": np.ones((1,), np.int64),
    "axis": np.array([3], np.int64),
    "axes": np.array([2, 3], np.int64),
    "third": np.array([3], np.int64),
}
#: As torch writes `x.mean(2).squeeze(2)` of a script, with a branch inside of a branch.
SQUEEZE = """
agraph (float[N,3,height,8] x) => (float[N,4] y) {
  c = Conv<pads=[1,1,1,1]>(x, w)
  r = Relu(c)
  p = GlobalAveragePool(r)
  s = Shape(p)
  d = Gather<axis=0>(s, third)
  one = Equal(d, ones)
  y = If (one) <
    then_branch = taken () => (float[N,4] b) {
      a = Squeeze(p, axis)
      inner = If (one) <
        then_branch = deep () => (float[N,4] z) { half = Add(a, a)  z = Flatten(half) },
        else_branch = other () => (float[N,4] z) { z = Flatten(a) }
      >
      b = Neg(inner)
    },
    else_branch = left () => (float[N,4] b) { b = Flatten(p) }
  >
}
"""
#: The way depends on what is in the image.
LOOKS = """
agraph (float[N,3,8,8] x) => (float[N,4] y) {
  c = Conv<pads=[1,1,1,1]>(x, w)
  p = GlobalAveragePool(c)
  m = ReduceMean<keepdims=0>(x)
  zero = Sub(m, m)
  dark = Less(m, zero)
  y = If (dark) <
    then_branch = a () => (float[N,4] b) { b = Flatten(p) },
    else_branch = c () => (float[N,4] b) { n = Neg(p)  b = Flatten(n) }
  >
}
"""


def written(text: str, path: Path) -> Path:
    graph = parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in WEIGHTS.items())
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_what_shapes_decide_is_taken_out_and_answers_stay(tmp_path):
    source = written(SQUEEZE, tmp_path / "in.onnx")
    made = import_onnx(source, tmp_path / "out.onnx", open_size=(8, 8))
    assert made.dynamic_batch
    assert "If" not in {node.op_type for node in onnx.load(made.path).graph.node}
    images = RANDOM.standard_normal((5, 3, 8, 8)).astype(np.float32)
    before, after = (
        run_session(open_session(path.read_bytes()), images)["y"] for path in (source, made.path)
    )
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert compare_files(source, made.path, images)["batch_sizes"]


def test_the_other_way_is_taken_where_shapes_say_so(tmp_path):
    text = SQUEEZE.replace("one = Equal(d, ones)", "same = Equal(d, ones)  one = Not(same)")
    kept = without_branches(onnx.load(written(text, tmp_path / "in.onnx")))
    assert [node.op_type for node in kept.graph.node][-2:] == ["Flatten", "Identity"]


def test_what_an_image_decides_is_refused(tmp_path):
    with pytest.raises(ModelError, match="without control flow"):
        import_onnx(written(LOOKS, tmp_path / "in.onnx"), tmp_path / "out.onnx")


def test_what_the_batch_decides_stays(tmp_path):
    text = SQUEEZE.replace("third", "first").replace("Shape(p)", "Shape(x)")
    graph = parser.parse_graph(text)
    arrays = {**WEIGHTS, "first": np.array([0], np.int64)}
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    assert "If" in {node.op_type for node in without_branches(model).graph.node}


def test_a_condition_that_is_written_out_is_known(tmp_path):
    graph = parser.parse_graph(LOOKS.replace("dark = Less(m, zero)", ""))
    arrays = {**WEIGHTS, "dark": np.array(True)}
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    assert "If" not in {node.op_type for node in without_branches(model).graph.node}
