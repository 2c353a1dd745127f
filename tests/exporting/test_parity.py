"""The parity gate on hand-made differences."""

from __future__ import annotations

import numpy as np
import pytest

from edgeres.errors import GateError, ModelError, StageError
from edgeres.exporting.parity import Tolerance, check_parity

SAMPLE = (3, 6, 6)
WEIGHTS = np.random.default_rng(1).standard_normal((4, 108)).astype(np.float32)


@pytest.fixture(scope="module")
def model(build_graph) -> bytes:
    body = "f = Flatten(x) y = Gemm<transB=1>(f, w)"
    return build_graph(body, {"w": WEIGHTS}).SerializeToString()


def logits(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) @ WEIGHTS.T


def test_equal_networks_pass(model: bytes) -> None:
    images = np.random.default_rng(2).random((4, *SAMPLE), dtype=np.float32)
    report = check_parity(
        lambda batch: {"y": logits(batch)}, model, sample_shape=SAMPLE, images=images
    )
    # Random inputs in batches of 1, 2 and 7; of the 4 real ones, batches of 1 and 2.
    assert report.samples == 10 + 3
    assert 0 <= report.max_rel_error < 1e-5


def test_worst_output_is_named(model: bytes) -> None:
    def reference(batch: np.ndarray) -> dict[str, np.ndarray]:
        wrong = logits(batch)
        if len(batch) == 7:
            wrong[4, 2] += 1.0
            wrong[5, 1] += 9.0
        return {"y": wrong}

    with pytest.raises(
        GateError, match=r"output 'y' at \[5, 1\] .*batch size 7, random input"
    ) as caught:
        check_parity(reference, model, sample_shape=SAMPLE)
    assert "The export is wrong" in caught.value.hint


def test_error_just_above_the_limit_fails(model: bytes) -> None:
    def shifted(batch: np.ndarray, by: float) -> dict[str, np.ndarray]:
        return {"y": logits(batch) + np.float32(by)}

    strict = Tolerance(absolute=1e-2, relative=0)
    check_parity(lambda b: shifted(b, 0.0099), model, sample_shape=SAMPLE, tolerance=strict)
    with pytest.raises(GateError, match=r"allowed 0\.01"):
        check_parity(lambda b: shifted(b, 0.0102), model, sample_shape=SAMPLE, tolerance=strict)


def test_a_source_that_magnifies_rounding_may_differ_by_that_and_by_no_more(model: bytes) -> None:
    """The last bits of the input move such a network by more than others may differ by."""

    def coarse(batch: np.ndarray, factor: float = 1.0) -> dict[str, np.ndarray]:
        wanted = logits(batch) * np.float32(factor)
        return {"y": wanted + np.float32(0.02) * np.sin(wanted * np.float32(1e6))}

    report = check_parity(coarse, model, sample_shape=SAMPLE)
    assert report.max_rel_error > 2e-4  # more than others may differ by
    with pytest.raises(GateError, match="differs from its source"):
        check_parity(lambda b: coarse(b, 1.05), model, sample_shape=SAMPLE)


def test_what_magnifies_everything_is_not_believed(model: bytes) -> None:
    """A network of noise says nothing: it may not excuse any difference."""

    def chaos(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"y": np.sin(logits(batch) * np.float32(1e7)).astype(np.float32)}

    with pytest.raises(GateError, match="differs from its source") as caught:
        check_parity(chaos, model, sample_shape=SAMPLE)
    assert "float32 does not decide what it computes" in caught.value.hint


def test_another_class_fails(model: bytes) -> None:
    with pytest.raises(GateError, match="1 of 1 predicted classes differ"):
        check_parity(lambda b: {"y": -logits(b)}, model, sample_shape=SAMPLE, batch_sizes=(1,))


def test_another_shape_fails(model: bytes) -> None:
    with pytest.raises(GateError, match=r"has shape \(1, 4\), expected \(1, 3\)"):
        check_parity(lambda b: {"y": logits(b)[:, :3]}, model, sample_shape=SAMPLE)


def test_source_without_numbers_is_a_model_error(model: bytes) -> None:
    with pytest.raises(ModelError, match="source network gives NaN or infinity at 'y'"):
        check_parity(lambda b: {"y": logits(b) * np.nan}, model, sample_shape=SAMPLE)


def test_nan_on_the_onnx_side_fails(build_graph) -> None:
    body = "f = Flatten(x) g = Gemm<transB=1>(f, w) l = Log(g) z = Mul(l, zero) y = Add(z, g)"
    broken = build_graph(body, {"w": WEIGHTS, "zero": np.float32(0)}).SerializeToString()
    with pytest.raises(GateError, match="is nan, expected"):
        check_parity(lambda b: {"y": logits(b)}, broken, sample_shape=SAMPLE)


def test_model_that_does_not_load_is_a_stage_error() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime rejects the model"):
        check_parity(lambda b: {"y": b}, b"nonsense", sample_shape=SAMPLE)


def test_fixed_batch_is_found(build_graph) -> None:
    body = "f = Flatten(x) y = Gemm<transB=1>(f, w)"
    fixed = build_graph(body, {"w": WEIGHTS}, image="float[1,3,6,6] x").SerializeToString()
    with pytest.raises(StageError, match="ONNX Runtime failed"):
        check_parity(lambda b: {"y": logits(b)}, fixed, sample_shape=SAMPLE)
