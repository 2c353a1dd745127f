"""Real engines whose answers depend on what shares the batch are named; honest ones pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgeres.backends import get_backend
from edgeres.backends.base import BatchLimits, BuildConfig
from edgeres.data.preprocess import Preprocess
from edgeres.errors import ModelError
from edgeres.evaluation.batching import SIZES, BatchWatch
from edgeres.evaluation.validate import validate
from edgeres.recipe.gates import Limits

from .conftest import template_model

PLAIN = Preprocess(scale=1 / 255, channels=1)


def _dependent(kind: str, batch: int | str = "N"):
    """The templates' network with an end that looks at the batch."""
    from onnx import TensorProto, helper, numpy_helper

    model = template_model()
    graph = model.graph
    graph.node[-1].output[0] = "scores"
    constants = {
        "zero": np.array(0),
        "axis": np.array([0]),
        "two": np.array(2),
        "half": np.array(50),
    }
    size = [
        helper.make_node("Shape", ["scores"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["size"]),
    ]
    nodes = {
        "centred": [
            helper.make_node("ReduceMean", ["scores", "axis"], ["mean"]),
            helper.make_node("Sub", ["scores", "mean"], ["logits"]),
        ],
        "zeros at 1": [
            *size,
            helper.make_node("Less", ["size", "two"], ["bad"]),
        ],
        "odd batches": [
            *size,
            helper.make_node("Mod", ["size", "two"], ["rest"]),
            helper.make_node("Cast", ["rest"], ["bad"], to=TensorProto.BOOL),
        ],
        "batches of 50": [
            *size,
            helper.make_node("Equal", ["size", "half"], ["bad"]),
        ],
    }[kind]
    if kind != "centred":
        nodes += [
            helper.make_node("Not", ["bad"], ["good"]),
            helper.make_node("Cast", ["good"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["scores", "factor"], ["logits"]),
        ]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    for value in (graph.input[0], graph.output[0]):
        dimension = value.type.tensor_type.shape.dim[0]
        if isinstance(batch, int):
            dimension.dim_value = batch
    return model


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Path]:
    import onnx

    def made(kind: str, batch: int | str = "N") -> Path:
        backend = get_backend("onnxruntime")
        onnx.save(_dependent(kind, batch), tmp_path / "source.onnx")
        out = tmp_path / f"model{backend.engine_suffix}"
        backend.build(tmp_path / "source.onnx", out, BuildConfig())
        return out

    return made


@pytest.mark.parametrize("kind", ["centred", "zeros at 1", "odd batches"])
def test_an_engine_that_looks_at_its_batch_is_named(kind, engines, shapes, build) -> None:
    with pytest.raises(ModelError, match="the answers depend on the batch") as caught:
        validate(build(kind), shapes, PLAIN, baseline=engines["fp32"])
    assert str(build(kind)) in caught.value.message
    with pytest.raises(ModelError, match="depend on the batch"):  # a baseline is no better
        validate(engines["fp32"], shapes, PLAIN, baseline=build(kind))


def test_a_last_batch_that_alone_is_wrong_is_named(engines, shapes, build) -> None:
    engine = build("batches of 50")
    with pytest.raises(ModelError, match="depend on the batch"):
        validate(engine, shapes.subset(range(1150)), PLAIN, baseline=engines["fp32"])


def test_a_fixed_batch_is_tried_with_other_neighbours(engines, shapes, build) -> None:
    with pytest.raises(ModelError, match="depend on the batch: in a batch of 100"):
        validate(build("centred", 100), shapes, PLAIN, baseline=engines["fp32"])
    found = validate(
        build("zeros at 1", 100),  # never runs alone, so it is right wherever it can run
        shapes,
        PLAIN,
        baseline=engines["fp32"],
        limits=Limits(max_drop=2.0),
    )
    assert found.verdict.outcome == "pass"


def _watched(count: int = 100) -> tuple[BatchWatch, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    images = np.arange(count, dtype=np.float32)[:, None]
    table = rng.standard_normal((count, 5)).astype(np.float32)
    watch = BatchWatch(count)
    watch.saw(images, table)
    return watch, images, table


def test_rounding_is_allowed_and_nothing_more() -> None:
    watch, _, table = _watched()
    rng = np.random.default_rng(3)

    def answer(images: np.ndarray, noise: float) -> np.ndarray:
        rows = table[images[:, 0].astype(int)]
        return rows + noise * rng.standard_normal(rows.shape).astype(np.float32)

    watch.check(lambda images: answer(images, 0.03), BatchLimits(), "engine")
    with pytest.raises(ModelError, match="engine: the answers depend"):
        watch.check(lambda images: answer(images, 0.3), BatchLimits(), "engine")


def test_one_wrong_row_or_nan_is_enough() -> None:
    watch, _, table = _watched()
    for wrong in (0.0, np.nan):

        def last_row_wrong(images: np.ndarray, wrong: float = wrong) -> np.ndarray:
            rows = table[images[:, 0].astype(int)].copy()
            if len(rows) == 33:
                rows[-1] = wrong
            return rows

        with pytest.raises(ModelError, match="in a batch of 33, 1 of 33 images"):
            watch.check(last_row_wrong, BatchLimits(), "engine")


def test_it_is_cheap_and_keeps_within_the_limits() -> None:
    watch, _, table = _watched()
    seen: list[int] = []

    def answer(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return table[images[:, 0].astype(int)]

    watch.check(answer, BatchLimits(), "engine")
    assert set(seen) == set(SIZES)
    assert sum(seen) <= 75
    seen.clear()
    watch.check(answer, BatchLimits(8, 8), "engine")
    assert seen == [8]
