"""What OpenVINO has no INT8 kernel for runs in float, and the account says which and why.

The refusals are stand-ins before the real compiler; tests/arm64 has CPUs that refuse by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from edgeres.backends.base import BuildConfig
from edgeres.backends.openvino import kernels, run
from edgeres.backends.openvino.backend import BACKEND
from edgeres.backends.sidecar import read_engine
from edgeres.errors import ArtefactError, ModelError
from edgeres.evaluation.inspect import inspect

from .conftest import write_network

pytestmark = pytest.mark.skipif(bool(BACKEND.missing()), reason=str(BACKEND.missing()))
ONE = BuildConfig(threads=1)


@pytest.fixture
def source(tmp_path):
    return write_network(tmp_path / "qdq.onnx", BACKEND.qdq_rules("cpu"))


@pytest.fixture
def refusing(monkeypatch) -> Callable:
    """Makes the compiler refuse every model that has such a layer."""

    def refuse(is_refused: Callable) -> None:
        real = run.core()

        def compile_model(model, *others):
            if any(is_refused(node) for node in model.get_ordered_ops()):
                raise RuntimeError("Exception from core.cpp:117:\nobject is not initialized\n")
            return real.compile_model(model, *others)

        stand_in = SimpleNamespace(compile_model=compile_model, read_model=real.read_model)
        monkeypatch.setattr(run, "core", lambda: stand_in)

    return refuse


def int8_weights(node) -> bool:
    """As the file has them: a Multiply with scales, not floats that were folded before."""
    return (
        node.get_type_name() in kernels.PRODUCTS
        and node.input_value(1).get_node().get_type_name() != "Constant"
    )


def reads_zero_point(node) -> bool:
    if not int8_weights(node):
        return False
    shift = node.input_value(0).get_node().input_value(0).get_node()
    if shift.get_type_name() != "Subtract":
        return False
    return bool(shift.input_value(1).get_node().input_value(0).get_node().data.any())


def answers(path, images):
    with BACKEND.load(read_engine(path), ONE) as runner:
        return runner.infer({runner.inputs[0].name: images})["logits"]


def test_a_layer_that_is_refused_runs_in_float_and_the_others_in_int8(
    source, tmp_path, images, refusing
):
    BACKEND.build(source, tmp_path / "free.xml", ONE)
    expected = answers(tmp_path / "free.xml", images)
    refusing(reads_zero_point)
    engine = BACKEND.build(source, tmp_path / "net.xml", ONE)
    found = inspect(engine.path, source=source)
    (stem,) = (layer for layer in found.layers if "stem" in layer.nodes and layer.reason)
    assert stem.precision == "float32"
    (left_out,) = found.coverage.float_layers
    assert left_out.name == "stem"
    assert "no kernel for its INT8 form on this CPU: the zero point of its input is" in (
        left_out.reason
    )
    if not BACKEND.qdq_rules("cpu").saturating:  # else these weights clip in INT8, not in float
        np.testing.assert_allclose(answers(engine.path, images), expected, atol=0.05)


def test_where_every_int8_layer_is_refused_all_run_in_float(source, tmp_path, images, refusing):
    refusing(int8_weights)
    engine = BACKEND.build(source, tmp_path / "net.xml", ONE)
    found = inspect(engine.path, source=source).coverage
    assert found.int8_coverage == 0
    assert {layer.name for layer in found.float_layers} == {"stem", "one", "two", "fc"}
    assert np.isfinite(answers(engine.path, images)).all()


def test_layers_that_are_refused_only_together_all_run_in_float(source, tmp_path, refusing):
    """Each compiles alone, so which of them it is cannot be told."""
    refusing(lambda node: node.get_friendly_name() == "add" and int8_weights(first_product(node)))
    with BACKEND.load(BACKEND.build(source, tmp_path / "net.xml", ONE), ONE) as runner:
        names = {name.partition("/")[0] for name in runner.in_float}
    assert names == {"stem", "one", "two", "fc"}


def first_product(node):
    while node.get_type_name() not in kernels.PRODUCTS:
        node = node.input_value(0).get_node()
    return node


def test_the_ir_is_the_same_whatever_compiles_here(source, tmp_path, refusing):
    """It may go to another CPU, which has the kernels."""
    free = BACKEND.build(source, tmp_path / "free" / "net.xml", ONE)
    refusing(reads_zero_point)
    here = BACKEND.build(source, tmp_path / "here" / "net.xml", ONE)
    assert here.path.read_bytes() == free.path.read_bytes()
    assert here.path.with_suffix(".bin").read_bytes() == free.path.with_suffix(".bin").read_bytes()


def test_what_does_not_compile_at_all_is_one_line_with_what_to_do(source, tmp_path, refusing):
    engine = BACKEND.build(source, tmp_path / "net.xml", ONE)
    refusing(lambda node: True)
    with pytest.raises(ModelError, match=r"cannot compile the model: object is not init") as caught:
        BACKEND.build(source, tmp_path / "again.xml", ONE)
    assert "\n" not in str(caught.value)
    assert "build it for onnxruntime" in caught.value.hint
    with pytest.raises(ArtefactError, match="cannot load it: object is not initialized") as caught:
        BACKEND.load(engine, ONE)
    assert "for onnxruntime here" in caught.value.hint  # this version built it, so not "again"
