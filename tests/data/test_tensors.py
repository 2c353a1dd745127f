"""Features: keys, shapes, splits, memory maps, everything generic, and what is hostile."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgeres.data.bad_images import BadImages
from edgeres.data.batches import batches
from edgeres.data.checks import check_calibration
from edgeres.data.features import Features, spread_of
from edgeres.data.overlap import find_overlap
from edgeres.data.preprocess import Preprocess
from edgeres.data.sample_file import read_sample
from edgeres.data.samples import names_of, save_samples
from edgeres.data.sampling import some_images, take
from edgeres.data.source import open_dataset
from edgeres.data.targets import target_names, targets_of
from edgeres.data.tensors import open_tensors
from edgeres.errors import DataError
from edgeres.evaluation.distinct import Sketcher

INPUTS = np.random.default_rng(0).normal(3.0, 10.0, (8, 5, 7)).astype(np.float32)
PLAIN = Preprocess(features=True)
ALL = np.arange(8)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return open_tensors(path, "validation")


def folder(path, **arrays):
    path.mkdir()
    for key, array in arrays.items():
        np.save(path / f"{key}.npy", array)
    return open_tensors(path, "validation")


@pytest.mark.parametrize("kind", ["archive", "folder", "one file"])
def test_features_come_as_they_are(tmp_path, kind):
    targets = np.arange(8) * 0.5
    if kind == "archive":
        dataset = saved(tmp_path / "a.npz", inputs=INPUTS, targets=targets)
    elif kind == "folder":
        dataset = folder(tmp_path / "a", inputs=INPUTS, targets=targets)
        assert isinstance(dataset.inputs, np.memmap)
    else:
        np.save(tmp_path / "a.npy", INPUTS)
        dataset = open_dataset(f"tensors:{tmp_path}/a.npy", split="calibration")
        assert target_names(dataset) == ()
        assert targets_of(dataset, ALL, PLAIN) == {}
    for preprocess in (PLAIN, Preprocess(resize=3, mean=(9.0,), channels=1)):
        found = list(batches(dataset, preprocess, 3, workers=2))
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), INPUTS)
        assert found[0][0].dtype == np.float32
        assert [len(y) for _, y in found] == [3, 3, 2]
        np.testing.assert_array_equal(preprocess.apply(dataset.image(2)), INPUTS[2])
    if kind != "one file":
        assert targets_of(dataset, np.array([3, 1]), PLAIN)[""].tolist() == [1.5, 0.5]
        assert dataset.labels.tolist() == [-1] * 8


@pytest.mark.parametrize(
    ("arrays", "names", "labels", "classes"),
    [
        ({"labels": ALL % 3}, ("labels",), ALL % 3, ()),
        ({"targets": ALL % 3}, ("targets",), ALL % 3, ()),
        ({"targets": ALL - 1}, ("targets",), -1, ()),
        ({"targets": np.eye(8, dtype=np.uint8)}, ("targets",), -1, ()),
        ({"targets_age": ALL / 2, "targets_sex": ALL % 2}, ("age", "sex"), -1, ()),
        ({"labels": ALL % 2, "targets_age": ALL / 2}, ("labels", "age"), ALL % 2, ()),
        (
            {"labels": ALL % 2, "class_names": ["off", "on"]},
            ("labels",),
            ALL % 2,
            ("off", "on"),
        ),
    ],
)
def test_targets_of_every_kind(tmp_path, arrays, names, labels, classes):
    dataset = saved(tmp_path / "a.npz", inputs=INPUTS, **arrays)
    assert target_names(dataset) == names
    assert dataset.labels.tolist() == np.broadcast_to(labels, 8).tolist()
    assert dataset.class_names == classes
    found = targets_of(dataset.subset([5, 6]), np.array([1]), PLAIN)
    assert tuple(found) == (names if len(names) > 1 else ("",))
    for name, values in found.items():
        key = {"": names[0], **{n: n for n in names}}[name]
        array = arrays.get(key, arrays.get(f"targets_{key}"))
        np.testing.assert_array_equal(values, array[[6]])
        assert values.dtype == (np.float64 if array.dtype.kind == "f" else np.int64)


def test_masks_over_features(tmp_path):
    dataset = saved(tmp_path / "a.npz", inputs=INPUTS, targets=np.ones((8, 5, 7), np.uint8))
    assert targets_of(dataset, ALL, PLAIN)[""].dtype == np.int32


@pytest.mark.parametrize("split", ["train", "validation", "calibration"])
def test_splits_have_their_keys(tmp_path, split):
    parts = {"train": INPUTS[:4], "val": INPUTS[4:7], "calibration": INPUTS[7:]}
    np.savez(
        tmp_path / "a.npz",
        **{f"{name}_inputs": part for name, part in parts.items()},
        **{f"{name}_labels": np.arange(len(part)) for name, part in parts.items()},
    )
    for name, part in parts.items():
        (tmp_path / "a" / name).mkdir(parents=True)
        np.save(tmp_path / "a" / name / "inputs.npy", part)
        np.save(tmp_path / "a" / name / "labels.npy", np.arange(len(part)))
    expected = parts["val" if split == "validation" else split]
    for path in (tmp_path / "a.npz", tmp_path / "a"):
        dataset = open_tensors(path, split)
        np.testing.assert_array_equal(dataset.inputs, expected)
        assert dataset.labels.tolist() == list(range(len(expected)))
        assert split in dataset.name


def test_what_is_generic_takes_features(tmp_path):
    dataset = saved(tmp_path / "a.npz", inputs=INPUTS, labels=ALL % 4)
    assert take(dataset, 4).labels.tolist() == [0, 1, 2, 3]
    assert some_images(dataset, PLAIN, 3).shape == (3, 5, 7)
    check_calibration(dataset)
    with pytest.raises(DataError, match="the same pixels"):
        check_calibration(dataset.subset([1, 1, 1]))
    assert find_overlap(dataset.subset([6, 1]), dataset, workers=2) == [(0, 6), (1, 1)]
    assert dataset.subset([7, 2]).subset([1]).image_name(0) == "tensors/validation[2]"
    (tmp_path / "samples").mkdir()
    save_samples(dataset, tmp_path / "samples")
    names = names_of(tmp_path / "samples")
    assert [path.name for path in names] == [f"sample-{index}.npy" for index in range(4)]
    np.testing.assert_array_equal(read_sample(names[3]).values, INPUTS[3])


def test_the_fingerprint_covers_order_numbers_and_targets(tmp_path):
    base = {"inputs": INPUTS, "targets": ALL / 2}
    changed = INPUTS.copy()
    changed[7, 4, 6] += 1
    variants = [
        base,
        {**base, "inputs": changed},
        {**base, "inputs": INPUTS.reshape(8, 7, 5)},
        {**base, "targets": -ALL / 2},
        {"inputs": INPUTS, "targets_age": ALL / 2},
        {"inputs": INPUTS, "labels": ALL},
    ]
    sets = [saved(tmp_path / f"{index}.npz", **arrays) for index, arrays in enumerate(variants)]
    sets += [sets[0].subset(ALL[::-1]), sets[0].subset([0])]
    assert len({dataset.fingerprint for dataset in sets}) == len(sets)
    assert sets[0].subset(ALL).fingerprint == sets[0].fingerprint
    assert folder(tmp_path / "f", **base).fingerprint == sets[0].fingerprint


def test_sketches_are_in_the_measure_of_the_set(tmp_path):
    """A thousandth of the spread is the same sample, half of it is another, at any scale."""
    for index, scale in enumerate([1e-4, 1.0, 1e6]):
        inputs = np.stack([INPUTS[0], INPUTS[0] + 0.01, INPUTS[0] + 5.0, *INPUTS]) * scale
        dataset = saved(tmp_path / f"{index}.npz", inputs=inputs.astype(np.float32))
        sketch = Sketcher(PLAIN, (5, 7), spread_of(dataset.subset([4])))
        found = sketch(inputs.astype(np.float32)).astype(float)
        apart = np.sqrt(np.square(found - found[0]).sum(axis=1)) / 16 / 4
        assert apart[1] < 1
        assert apart[2] > 10


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": INPUTS}, "got 'images'"),
        ({"inputs": INPUTS[:, 0, 0]}, r"inputs \(N, \.\.\.\)"),
        ({"inputs": INPUTS[:, :0]}, r"inputs \(N, \.\.\.\)"),
        ({"inputs": np.full((2, 2), "x")}, r"got \(2, 2\) <U1"),
        ({"inputs": INPUTS.astype(complex)}, "complex"),
        ({"inputs": INPUTS, "targets": np.zeros(7)}, "one target for each of the 8"),
        ({"inputs": INPUTS, "targets": np.zeros((8, 0))}, r"numbers \(N"),
        ({"inputs": INPUTS, "targets": np.full(8, "a")}, r"numbers \(N"),
        ({"inputs": INPUTS, "targets": np.r_[np.zeros(7), np.nan]}, "NaN or infinity for sample 7"),
        ({"inputs": INPUTS, "labels": np.zeros(8)}, "labels .N,. of an integer type"),
        ({"inputs": INPUTS, "labels": np.full(8, 2**40)}, "class numbers under"),
    ],
)
def test_arrays_that_are_not_features(tmp_path, arrays, reason):
    with pytest.raises(DataError, match=reason) as caught:
        saved(tmp_path / "a.npz", **arrays)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=reason):
        folder(tmp_path / "a", **arrays)


def test_an_empty_set_is_bad_data(tmp_path):
    np.savez(tmp_path / "a.npz", inputs=INPUTS[:0])
    with pytest.raises(DataError, match="empty set"):
        open_dataset(f"tensors:{tmp_path}/a.npz", split="validation")
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "inputs.npy", INPUTS[:0])
    with pytest.raises(DataError, match="empty set"):
        open_dataset(f"tensors:{tmp_path}/b", split="validation")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_samples_that_are_not_finite_are_named_and_counted(tmp_path, value):
    inputs = np.random.default_rng(1).normal(size=(200, 3))
    inputs[150, 1] = value
    dataset = saved(tmp_path / "a.npz", inputs=inputs)
    with pytest.raises(DataError, match=r"validation\[150\]: 1 of 3 numbers are NaN"):
        list(batches(dataset, PLAIN, 64))
    skipped = BadImages()
    assert sum(len(x) for x, _ in batches(dataset, PLAIN, 64, skipped=skipped)) == 199
    assert list(skipped.reasons) == ["tensors/validation[150]"]
    assert 0.5 < dataset.spread < 2


def test_an_image_is_refused_where_features_are_taken_and_the_other_way_round(tmp_path):
    from PIL import Image

    with pytest.raises(DataError, match="Expected features"):
        PLAIN.apply(Image.new("L", (3, 3)))
    with pytest.raises(DataError, match="Expected an image"):
        Preprocess().fit(Features(INPUTS[0]))


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (Path(self.path), "ran"))


def test_objects_are_never_unpickled(tmp_path):
    trap = np.empty(1, dtype=object)
    trap[0] = Marker(str(tmp_path / "ran"))
    np.savez(tmp_path / "a.npz", inputs=trap)
    np.save(tmp_path / "inputs.npy", trap)
    for path in (tmp_path / "a.npz", tmp_path, tmp_path / "inputs.npy"):
        with pytest.raises(DataError, match="Python objects"):
            open_tensors(path, "validation")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "ran").exists(), "the trap must work, or this test proves nothing"


@pytest.mark.parametrize("archived", [True, False])
def test_a_header_that_promises_a_terabyte_is_refused(tmp_path, archived):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 10, 1 << 8)}
    np.lib.format.write_array_header_1_0(stream, header)
    path = tmp_path / ("a.npz" if archived else "inputs.npy")
    if archived:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inputs.npy", stream.getvalue())
    else:
        path.write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="promises 1,099,511,627,776"):
        open_tensors(path, "validation")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{", b"text", b"\x93NUMPY\x09\x00"]
)
def test_what_is_no_array_is_named(tmp_path, content):
    for name in ("inputs.npy", "a.npz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as caught:
            open_tensors(tmp_path / name, "validation")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        open_tensors(tmp_path / "none", "validation")
