from __future__ import annotations

import sys

import numpy as np
import pytest

from edgeres.system import blas_threads
from edgeres.system.blas_threads import one_blas_thread


def counts():
    return [get() for get, _ in blas_threads._libraries()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of a process")
def test_products_are_of_one_thread_inside_and_of_as_many_as_before_behind():
    if not blas_threads._libraries():
        pytest.skip("numpy and scipy use no OpenBLAS here")
    before = counts()
    with one_blas_thread():
        assert counts() == [1] * len(before)
        np.ones((300, 300)) @ np.ones((300, 300))
    assert counts() == before
    with pytest.raises(ValueError, match="inside"), one_blas_thread():
        raise ValueError("inside")
    assert counts() == before


def test_where_nothing_is_known_of_threads_nothing_happens(monkeypatch, tmp_path):
    monkeypatch.setattr(blas_threads, "_MAPS", tmp_path / "none")
    assert blas_threads._mapped() == set()
