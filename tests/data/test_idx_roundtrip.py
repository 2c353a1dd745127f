"""IDX files give back the arrays that were written, plain or compressed."""

import gzip
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from edgeres.data.idx import read_idx
from edgeres.data.idx_source import open_idx
from edgeres.errors import DataError, UsageError


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


@settings(deadline=None)
@given(
    arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6)), st.booleans()
)
def test_round_trip(values, compressed):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values"
        path.write_bytes(gzip.compress(idx(values)) if compressed else idx(values))
        again = read_idx(path)
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, values)


@settings(deadline=None)
@given(arrays(np.uint8, (3, 2, 2)), st.data())
def test_every_truncation_is_bad_data(values, data):
    content = idx(values)
    end = data.draw(st.integers(0, len(content) - 1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values"
        path.write_bytes(content[:end])
        with pytest.raises(DataError):
            read_idx(path)


@pytest.fixture
def pair(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.write_bytes(idx(np.arange(48, dtype=np.uint8).reshape(4, 3, 4)))
    labels.write_bytes(idx(np.array([2, 0, 1, 2], dtype=np.uint8)))
    return images, labels


def test_a_pair_is_a_data_set(pair):
    dataset = open_idx(*pair, "validation")
    assert len(dataset) == 4
    assert dataset.labels.tolist() == [2, 0, 1, 2]
    assert dataset.labels.dtype == np.int64
    assert dataset.class_names == ()
    assert np.asarray(dataset.image(1)).tolist() == np.arange(12, 24).reshape(3, 4).tolist()


def test_other_counts_are_refused_with_both(pair):
    images, labels = pair
    labels.write_bytes(idx(np.zeros(3, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"4 images.*\(3,\)"):
        open_idx(images, labels, "validation")


def test_only_calibration_goes_without_labels(pair):
    assert open_idx(pair[0], None, "calibration").labels.tolist() == [-1] * 4
    with pytest.raises(UsageError, match="IMAGES,LABELS"):
        open_idx(pair[0], None, "validation")
