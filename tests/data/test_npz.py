"""NumPy archives: keys, shapes, and archives that are damaged or hostile."""

import io
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.data.npz import open_npz
from edgeres.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([1, 0])


def saved(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_images_and_labels(tmp_path):
    dataset = open_npz(saved(tmp_path / "a.npz", images=IMAGES, labels=LABELS), "validation")
    np.testing.assert_array_equal(dataset.images, IMAGES)
    assert dataset.labels.tolist() == [1, 0]
    assert dataset.labels.dtype == np.int64
    assert dataset.class_names == ()


def test_class_names_and_a_last_axis_of_one(tmp_path):
    path = saved(
        tmp_path / "a.npz", images=IMAGES[..., None], labels=LABELS[:, None], class_names=["x", "y"]
    )
    dataset = open_npz(path, "validation")
    assert dataset.images.shape == (2, 3, 4)
    assert dataset.class_names == ("x", "y")


@pytest.mark.parametrize(
    ("keys", "split", "expected"),
    [
        ("train_images train_labels val_images val_labels test_images test_labels", "train", 0),
        (
            "train_images train_labels val_images val_labels test_images test_labels",
            "validation",
            1,
        ),
        ("train_images train_labels test_images test_labels", "validation", 1),
        ("x_train y_train x_test y_test", "validation", 1),
        ("x_train y_train x_test y_test", "calibration", 0),
        ("train_images train_labels calibration_images", "calibration", 1),
    ],
)
def test_splits_have_their_keys(tmp_path, keys, split, expected):
    arrays = {}
    for place, key in enumerate(keys.split()):
        is_image = "images" in key or key.startswith("x_")
        arrays[key] = np.full_like(IMAGES, place // 2) if is_image else LABELS
    dataset = open_npz(saved(tmp_path / "a.npz", **arrays), split)
    assert dataset.images[0, 0, 0] == expected


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"pictures": IMAGES}, "got the keys 'pictures'"),
        ({"images": IMAGES}, "labels under 'labels'"),
        ({"images": IMAGES, "labels": np.zeros(2)}, "integer type"),
        ({"images": IMAGES, "labels": np.eye(2, dtype=int)}, "integer type"),
        ({"images": IMAGES, "labels": np.zeros(3, int)}, "one label for each of the 2"),
        ({"images": IMAGES / 255, "labels": LABELS}, "uint8"),
        ({"images": IMAGES[0], "labels": LABELS}, "uint8"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8), "labels": LABELS}, "uint8"),
        ({"images": np.zeros((2, 0, 8), np.uint8), "labels": LABELS}, "at least one pixel"),
        ({"images": IMAGES, "labels": np.array([0, 2**40])}, "class numbers under"),
    ],
)
def test_arrays_that_are_not_a_data_set(tmp_path, arrays, reason):
    with pytest.raises(DataError, match=reason):
        open_npz(saved(tmp_path / "a.npz", **arrays), "validation")


def test_calibration_needs_no_labels(tmp_path):
    path = saved(tmp_path / "a.npz", images=IMAGES)
    assert open_npz(path, "calibration").labels.tolist() == [-1, -1]
    with pytest.raises(DataError, match="uint8"):
        open_npz(saved(tmp_path / "b.npz", images=np.uint8(3)), "calibration")


class Marker:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (Path(self.path), "ran"))


def test_objects_are_never_unpickled(tmp_path):
    trap = np.empty(1, dtype=object)
    trap[0] = Marker(str(tmp_path / "ran"))
    np.savez(tmp_path / "a.npz", images=trap, labels=trap)
    with pytest.raises(DataError, match="Python objects"):
        open_npz(tmp_path / "a.npz", "validation")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "ran").exists(), "the trap must work, or this test proves nothing"


def test_a_header_that_promises_a_terabyte_is_refused(tmp_path):
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 1 << 10, 1 << 10)}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", stream.getvalue())
        archive.writestr("labels.npy", stream.getvalue())
    with pytest.raises(DataError, match="promises 1,099,511,627,776"):
        open_npz(tmp_path / "a.npz", "validation")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': (",
        "  x\n y",
        "{[]: 1}",
        "-" * 5000 + "1",
        "(" * 5000,
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2)}",
        "{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '|u1')] * 2, 'fortran_order': False, 'shape': (1,)}",
        "1" * 20_000,
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"])
def test_a_hostile_header_is_bad_data(tmp_path, header, version):
    length = len(header).to_bytes(2 if version[0] == 1 else 4, "little")
    content = b"\x93NUMPY" + version + length + header.encode()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", content)
    with pytest.raises(DataError) as caught:
        open_npz(tmp_path / "a.npz", "calibration")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["encrypted", "compression 99", "lzma"])
def test_an_archive_that_cannot_be_unpacked_is_bad_data(tmp_path, damage):
    path = tmp_path / "a.npz"
    kind = zipfile.ZIP_LZMA if damage == "lzma" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("images.npy", bytes(500))
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    if damage == "encrypted":
        data[6] |= 1
        data[central + 8] |= 1
    elif damage == "compression 99":
        data[8] = data[central + 10] = 99
    else:
        data[45:60] = b"\xff" * 15
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz"):
        open_npz(path, "calibration")


def test_what_is_not_an_archive_is_named(tmp_path):
    (tmp_path / "a.npz").write_text("text")
    with pytest.raises(DataError, match="not a zip file"):
        open_npz(tmp_path / "a.npz", "validation")
    with pytest.raises(DataError, match="No such file"):
        open_npz(tmp_path / "none.npz", "validation")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4),
    st.none() | st.floats(0, 1),
    st.booleans(),
)
def test_damaged_archives_open_or_are_bad_data(changes, end, compressed):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, images=IMAGES, labels=LABELS)
    damaged = bytearray(stream.getvalue())
    for place, value in changes:
        damaged[int(place * (len(damaged) - 1))] = value
    if end is not None:
        del damaged[int(end * len(damaged)) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(damaged)
        try:
            dataset = open_npz(path, "validation")
        except DataError:
            return
    assert len(dataset) == len(dataset.labels)
