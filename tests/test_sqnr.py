import math

import numpy as np
import pytest

from edgeres.sqnr import EQUAL_DB, bounded_db, ratio_db, sqnr_db


def test_it_is_ten_log_of_the_energies():
    reference = np.full((5000, 3), 10, np.float32)  # more rows than are squared at once
    assert sqnr_db(reference, reference + 1) == pytest.approx(20.0)


def test_what_no_finite_number_says():
    ones, zeros = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    assert sqnr_db(ones, ones) == sqnr_db(ones[:0], ones[:0]) == math.inf
    assert sqnr_db(zeros, ones) == ratio_db(1.0, math.inf) == ratio_db(math.nan, 1.0) == -math.inf
    assert (bounded_db(math.inf), bounded_db(-math.inf), bounded_db(7.0)) == (
        EQUAL_DB,
        -EQUAL_DB,
        7.0,
    )
