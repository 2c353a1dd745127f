"""Batches: the same numbers by every path, bad images counted, sizes checked."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeres.data.arrays import ArrayDataset
from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.files import FileDataset
from edgeres.data.preprocess import Preprocess
from edgeres.errors import DataError, UsageError

GREY = Preprocess(mean=(0.286,), std=(0.353,), channels=1)


def array_dataset(count, *shape, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return ArrayDataset("noise", images, np.arange(count, dtype=np.int64) % 7)


@pytest.fixture
def files(tmp_path):
    """Makes a data set of PNG files; the indices in ``broken`` hold text."""

    def make(count, broken=(), size=lambda _: (6, 8)):
        paths = tuple(f"{index:03}.png" for index in range(count))
        for index, path in enumerate(paths):
            if index in broken:
                (tmp_path / path).write_text("no image")
            else:
                Image.new("L", size(index)[::-1], index).save(tmp_path / path)
        return FileDataset("files", tmp_path, paths, np.arange(count, dtype=np.int64))

    return make


def gathered(stream):
    images, labels = zip(*stream, strict=True)
    return np.concatenate(images), np.concatenate(labels)


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("resize", [None, (9, 8), 5])
def test_every_path_gives_what_apply_gives(shape, channels, order, layout, resize):
    if channels == 1 and order == "bgr":
        order = "rgb"
    dataset = array_dataset(5, *shape)
    preprocess = Preprocess(
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.3, 0.4)[:channels],
        channel_order=order,
        layout=layout,
        channels=channels,
        resize=resize,
    )
    images, labels = gathered(batches(dataset, preprocess, 2))
    expected = [preprocess.apply(dataset.image(index)) for index in range(5)]
    np.testing.assert_array_equal(images, np.stack(expected))
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 3, 4]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 3), st.booleans(), st.randoms())
def test_batches_cover_the_indices_once_in_order(count, batch_size, workers, resized, random):
    dataset = array_dataset(count, 4, 4)
    indices = [random.randrange(count) for _ in range(random.randint(1, 40))]
    preprocess = Preprocess(scale=1, channels=1, resize=3 if resized else None)
    sizes = []
    seen = []
    for images, labels in batches(
        dataset, preprocess, batch_size, indices=indices, workers=workers
    ):
        assert images.shape[1:] == ((1, 3, 3) if resized else (1, 4, 4))
        assert len(images) == len(labels)
        sizes.append(len(labels))
        seen += labels.tolist()
    assert seen == dataset.labels[indices].tolist()
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size


def test_memory_path_is_fast_enough():
    """10,000 images of 28x28 take a small part of a second of processor time."""
    dataset = array_dataset(10_000, 28, 28)
    start = time.process_time()
    images, _ = gathered(batches(dataset, GREY, 256))
    assert images.shape == (10_000, 1, 28, 28)
    assert time.process_time() - start < 0.2


def test_memory_path_opens_no_image(monkeypatch):
    monkeypatch.setattr(ArrayDataset, "image", lambda *_: pytest.fail("went through Pillow"))
    assert len(list(batches(array_dataset(10, 28, 28), GREY, 4))) == 3


def test_without_a_collector_a_bad_image_raises(files):
    stream = batches(files(10, broken=[4]), GREY, 2)
    assert next(stream)[1].tolist() == [0, 1]
    assert next(stream)[1].tolist() == [2, 3]
    with pytest.raises(DataError, match=r"004\.png"):
        next(stream)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out_counted_and_named(files, workers):
    skipped = BadImages(max_share=0.2)
    dataset = files(10, broken=[1, 4])
    images, labels = gathered(batches(dataset, GREY, 3, workers=workers, skipped=skipped))
    assert labels.tolist() == [0, 2, 3, 5, 6, 7, 8, 9]
    assert len(images) == 8
    assert list(skipped.reasons) == ["'001.png'", "'004.png'"]
    assert skipped.summary().startswith("2 images could not be decoded")
    assert "'004.png'" in skipped.summary()
    gathered(batches(dataset, GREY, 3, workers=workers, skipped=skipped))
    assert len(skipped.reasons) == 2, "the same image counts once, however often it is read"


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images_fail(files, workers):
    skipped = BadImages(max_share=0.2)
    with pytest.raises(
        DataError, match=r"at most 20\.00% bad images, got 3 .* reading 10"
    ) as caught:
        list(batches(files(10, broken=[1, 4, 7, 8]), GREY, 3, workers=workers, skipped=skipped))
    assert "007.png" in str(caught.value)


def test_only_bad_images_fail_whatever_the_share(files):
    with pytest.raises(DataError, match="none that can be decoded"):
        list(batches(files(3, broken=[0, 1, 2]), GREY, 2, skipped=BadImages(max_share=1.0)))


def test_no_bad_images_no_summary(files):
    skipped = BadImages()
    list(batches(files(3), GREY, 2, skipped=skipped))
    assert skipped.summary() == ""


def test_other_sizes_are_named_unless_cropped(files):
    dataset = files(4, size=lambda index: (6, 8 + index // 2))
    with pytest.raises(DataError, match=r"\(6, 8\), got \(6, 9\) for '002\.png'"):
        list(batches(dataset, GREY, 4))
    cropped = Preprocess(crop=6, channels=1)
    assert gathered(batches(dataset, cropped, 4))[0].shape == (4, 1, 6, 6)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"batch_size": 0}, UsageError),
        ({"workers": -1}, UsageError),
        ({"indices": [0, 5]}, UsageError),
        ({"indices": [-1]}, UsageError),
        ({"indices": []}, DataError),
    ],
)
def test_arguments_are_checked_before_the_first_batch(arguments, error):
    dataset = array_dataset(5, 4, 4)
    with pytest.raises(error):
        batches(dataset, GREY, **{"batch_size": 2, **arguments})


def test_an_empty_set_has_no_batches():
    with pytest.raises(DataError, match="got none"):
        batches(array_dataset(0, 4, 4), GREY, 2)


def test_threads_end_with_the_stream(files):
    def decoding():
        return [t for t in threading.enumerate() if t.name.startswith("edgeres-decode")]

    stream = batches(files(40), GREY, 2, workers=2)
    next(stream)
    assert decoding()
    stream.close()
    assert not decoding()


def test_threads_stay_only_a_few_images_ahead(files):
    dataset = files(100)
    opened = []

    class Counting(FileDataset):
        def image(self, index):
            opened.append(index)
            return super().image(index)

    counting = Counting(dataset.name, dataset.root, dataset.paths, dataset.labels)
    stream = batches(counting, GREY, 1, workers=2)
    next(stream)
    time.sleep(0.2)
    assert len(opened) <= 20
    stream.close()
