"""Running over a data set: each sample once, in order, with the shapes the engine takes."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import numpy as np
import pytest

from edgeres.backends.base import Array, BatchLimits
from edgeres.data.arrays import ArrayDataset
from edgeres.data.bad_images import BadImages
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, ModelError
from edgeres.evaluation.predict import predict
from edgeres.graph.summary import TensorSpec


class Brightness:
    """Classifies 2x2 images by their first pixel: logit k is ``-abs(pixel - k)``."""

    def __init__(
        self,
        shape: tuple[int | None, ...] = (None, 1, 2, 2),
        tail: tuple[int, ...] = (),
        dtype: str = "float32",
        limits: BatchLimits | None = None,
    ) -> None:
        self.batch_limits = limits or BatchLimits(shape[0], shape[0])
        self.inputs = (TensorSpec("image", shape, dtype),)
        self.outputs = (TensorSpec("scores", (shape[0], 3), dtype),)
        self.tail = tail
        self.seen: list[tuple[int, ...]] = []

    def infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        images = feeds["image"]
        assert self.batch_limits.fit(len(images)) == len(images)
        assert images.dtype == self.inputs[0].dtype
        self.seen.append(images.shape)
        pixel = images.reshape(len(images), -1)[:, :1]
        scores = -np.abs(pixel - np.arange(3, dtype=images.dtype))
        return {"scores": scores.reshape(*scores.shape, *self.tail)}

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def data(count: int = 7, classes: int = 3) -> ArrayDataset:
    labels = np.arange(count, dtype=np.int64) % 3
    images = np.broadcast_to(labels[:, None, None], (count, 2, 2)).astype(np.uint8)
    return ArrayDataset("grey", images, labels, tuple("abcdef"[:classes]))


PLAIN = Preprocess(scale=1.0, channels=1)


@pytest.mark.parametrize(
    ("side", "batches"), [(2, [40]), (224, [16, 16, 8]), (512, [3] * 13 + [1]), (2240, [1] * 40)]
)
def test_large_images_share_a_run_with_few(side: int, batches: list[int]) -> None:
    runner = Brightness((None, 3, side, side))
    images = np.zeros((40, 1, 1), np.uint8)
    grey = ArrayDataset("grey", images, np.arange(40) % 3, tuple("abc"))
    large = Preprocess(scale=1.0, channels=3, resize=(side, side))
    answers = predict(runner, grey, large, batch_size=64)
    assert [shape[0] for shape in runner.seen][: len(batches)] == batches  # then some again
    assert len(answers.logits) == 40


def test_every_sample_once_in_order() -> None:
    steps: list[tuple[int, int]] = []
    runner = Brightness()
    answers = predict(
        runner,
        data(),
        PLAIN,
        batch_size=3,
        name="engine",
        model_sha256="f00",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert answers.predicted.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert answers.labels.tolist() == answers.predicted.tolist()
    assert [shape[0] for shape in runner.seen][:3] == [3, 3, 1]
    assert steps == [(3, 7), (6, 7), (7, 7)]
    assert (answers.name, answers.model_sha256) == ("engine", "f00")
    assert answers.data_fingerprint == data().fingerprint
    assert answers.class_names == ("a", "b", "c")


def test_a_fixed_batch_is_filled_up() -> None:
    runner = Brightness(shape=(4, 1, 2, 2))
    answers = predict(runner, data(), PLAIN, batch_size=99)
    assert answers.predicted.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [shape[0] for shape in runner.seen][:2] == [4, 4]


@pytest.mark.parametrize(
    ("limits", "wanted", "runs"),
    [
        (BatchLimits(1, 3), 99, [3, 3, 1]),
        (BatchLimits(2, 3), 99, [3, 3, 2]),
        (BatchLimits(5, 8), 1, [5, 5]),
        (BatchLimits(2), 3, [3, 3, 2]),
        (BatchLimits(), 4, [4, 3]),
    ],
)
def test_batches_keep_within_what_the_engine_takes(
    limits: BatchLimits, wanted: int, runs: list[int]
) -> None:
    runner = Brightness(limits=limits)
    answers = predict(runner, data(), PLAIN, batch_size=wanted)
    assert answers.predicted.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [shape[0] for shape in runner.seen][: len(runs)] == runs


def test_trailing_ones_and_half_precision_are_taken() -> None:
    answers = predict(Brightness(tail=(1, 1), dtype="float16"), data(), PLAIN)
    assert answers.logits.dtype == np.float32
    assert answers.correct.all()


def test_channels_last() -> None:
    runner = Brightness(shape=(None, 2, 2, 1))
    answers = predict(runner, data(), Preprocess(scale=1.0, channels=1, layout="nhwc"))
    assert runner.seen[0] == (7, 2, 2, 1)
    assert answers.correct.all()


def test_a_bad_image_is_left_out_only_when_allowed() -> None:
    class Damaged(ArrayDataset):
        def image(self, index: int):
            if index == 2:
                raise DataError("grey[2] is cut short.")
            return super().image(index)

    damaged = Damaged("grey", data().images, data().labels)
    resized = Preprocess(scale=1.0, channels=1, resize=(3, 3), crop=(2, 2))
    with pytest.raises(DataError, match="cut short"):
        predict(Brightness(), damaged, resized)
    skipped = BadImages(max_share=0.5)
    answers = predict(Brightness(), damaged, resized, skipped=skipped)
    assert answers.labels.tolist() == [0, 1, 0, 1, 2, 0]
    assert list(skipped.reasons) == ["grey[2]"]


def test_wrong_size_names_both_shapes() -> None:
    with pytest.raises(DataError, match=r"takes images of shape \(N, 3, 8, 8\).*\(N, 1, 2, 2\)"):
        predict(Brightness(shape=(None, 3, 8, 8)), data(), PLAIN)


def test_wrong_class_count_names_both() -> None:
    with pytest.raises(DataError, match="grey has 5 classes, the model gives 3 scores"):
        predict(Brightness(), data(classes=5), PLAIN)


def test_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        predict(Brightness(), data(0), PLAIN)


def test_other_networks_are_refused() -> None:
    detector = Brightness(tail=(4,))
    detector.infer = lambda feeds: {"scores": np.zeros((7, 3, 4), dtype=np.float32)}
    with pytest.raises(ModelError, match=r"scores to be \(\d, K\), got \(\d, 3, 4\)"):
        predict(detector, data(), PLAIN)
    two = Brightness()
    two.inputs = (*two.inputs, TensorSpec("mask", (None, 4), "float32"))
    with pytest.raises(ModelError, match="expected one input"):
        predict(two, data(), PLAIN)
    heads = Brightness()
    heads.outputs = (*heads.outputs, TensorSpec("boxes", (None, 4), "float32"))
    with pytest.raises(ModelError, match="one output"):
        predict(heads, data(), PLAIN)


def test_an_engine_that_ignores_the_batch_is_caught() -> None:
    broken = Brightness()
    broken.infer = lambda feeds: {"scores": np.zeros((1, 3), dtype=np.float32)}
    with pytest.raises(ModelError, match=r"scores to be \(7, \.\.\.\), got \(1, 3\)"):
        predict(broken, data(), PLAIN)
