"""What every backend keeps of answers: they are right, and in the precision that was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import DataError, UsageError
from edgeres.evaluation.coverage import int8_coverage
from edgeres.graph.summary import node_macs

from ..conftest import CLASSES, IMAGE, write_network
from .conftest import NO_ARITHMETIC, REFERENCES, executable, has_arithmetic, on, right_answer

# --- running ----------------------------------------------------------------------------------


def test_tells_its_inputs_and_outputs(runner):
    (source,), (target,) = runner.inputs, runner.outputs
    assert (source.name, source.dtype, source.shape[:2]) == ("input", "float32", (None, 3))
    assert all(got in (None, wanted) for got, wanted in zip(source.shape[1:], IMAGE, strict=True))
    assert (target.name, target.dtype, target.shape) == ("logits", "float32", (None, CLASSES))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_fp32_answers_are_right_at_any_batch(backend, source, runner, images, batch):
    # bfloat16 or TF32 in place of FP32 would be off by 1e-2.
    answer = runner.infer({"input": images[:batch]})["logits"]
    wanted = right_answer(backend, source, images[:batch])
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-4)


def test_going_back_to_an_earlier_batch_size(runner, images):
    first = runner.infer({"input": images[:1]})["logits"]
    for batch in (2, 3, 4, 5, 6, 1):
        again = runner.infer({"input": images[:batch]})["logits"]
        assert again.shape == (batch, CLASSES)
        np.testing.assert_allclose(again[:1], first, rtol=1e-4, atol=1e-4)


def test_answers_stay_when_the_engine_runs_again(backend, runner, images):
    first = runner.infer({"input": images[:1]})["logits"]
    kept = first.copy()
    second = runner.infer({"input": images[1:2]})["logits"]
    np.testing.assert_array_equal(first, kept)
    if backend.name not in NO_ARITHMETIC:
        assert np.abs(second - first).max() > 1e-3


def test_the_same_feed_gives_the_same_bits(runner, images):
    first = runner.infer({"input": images})["logits"]
    np.testing.assert_array_equal(runner.infer({"input": images})["logits"], first)


def test_feeds_that_are_views_or_locked_are_read_right(runner, images):
    whole = runner.infer({"input": np.ascontiguousarray(images[::2])})["logits"]
    np.testing.assert_array_equal(runner.infer({"input": images[::2]})["logits"], whole)
    locked = images[::2].copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(runner.infer({"input": locked})["logits"], whole)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda x: {}, "input is missing"),
        (lambda x: {"input": x, "mask": x}, "no input mask"),
        (lambda x: {"input": x.astype(np.float64)}, "float64"),
        (lambda x: {"input": x.tolist()}, "list"),
        (lambda x: {"input": x[:, :1]}, r"\(7, 1, 12, 12\)"),
        (lambda x: {"input": x[0]}, r"\(3, 12, 12\)"),
        (lambda x: {"input": x[:0]}, r"\(0, 3, 12, 12\)"),
    ],
)
def test_wrong_feeds_are_refused(runner, images, spoil, named):
    with pytest.raises(DataError, match=named):
        runner.infer(spoil(images))
    assert runner.infer({"input": images})["logits"].shape == (7, CLASSES)


def test_a_closed_engine_does_not_run(backend, engine, images):
    executable(backend)
    with backend.load(engine, on(backend)) as runner:
        runner.infer({"input": images})
    runner.close()
    with pytest.raises(UsageError, match="closed"):
        runner.infer({"input": images})


# --- proof of precision -----------------------------------------------------------------------


def test_layers_of_an_fp32_engine_are_float(backend, network, engine):
    has_arithmetic(backend)
    layers = backend.layers(engine)
    assert layers
    assert all(layer.name and layer.op and layer.precision for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)
    assert not [layer for layer in layers if "8" in layer.precision]
    if backend.name not in REFERENCES:
        coverage = int8_coverage(node_macs(network), layers)
        assert coverage.int8_coverage == 0
        # Every convolution is accounted for by its ONNX name, as a float layer.
        assert {layer.precision for layer in coverage.float_layers} == {"float32"}


def test_a_model_under_the_backends_own_rules_runs_in_int8(backend, network, tmp_path, images):
    rules = backend.qdq_rules(on(backend).device)
    if not rules.ops:
        pytest.skip(f"{backend.name}: quantizes nothing")
    source = write_network(tmp_path / "qdq.onnx", rules)
    engine = backend.build(source, tmp_path / f"int8{backend.engine_suffix}", on(backend))
    layers = backend.layers(engine)
    coverage = int8_coverage(node_macs(network), layers)
    assert coverage.float_layers == ()
    assert coverage.int8_coverage == 1
    named = {node for layer in layers for node in layer.nodes}
    assert {"stem", "one", "two", "add", "pool", "fc"} <= named
    executable(backend)
    with backend.load(engine, on(backend)) as runner:
        answer = runner.infer({"input": images})["logits"]
    wanted = right_answer(backend, network, images)
    noise = float(np.square(wanted - answer).sum() / np.square(wanted).sum())
    # Weights of this file are not made safe: sums that overflow cost accuracy, not coverage.
    assert 1e-8 < noise < (1.0 if rules.saturating else 1e-2)


def test_a_fixed_batch_stays_fixed(backend, tmp_path, images):
    if backend.name in REFERENCES:
        pytest.skip(f"{backend.name}: a checkpoint has no batch")
    source = write_network(tmp_path / "fixed.onnx", batch=2)
    engine = backend.build(source, tmp_path / f"fixed{backend.engine_suffix}", on(backend))
    executable(backend)
    with backend.load(engine, on(backend)) as runner:
        assert runner.inputs[0].shape == (2, *IMAGE)
        with pytest.raises(DataError, match=r"expected float32 \(2, 3, 12, 12\)"):
            runner.infer({"input": images[:3]})
        assert runner.infer({"input": images[:2]})["logits"].shape == (2, CLASSES)
