"""Orders by counting are numpy's stable ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray_det.evaluation.sorting import falling, rising


@given(st.lists(st.integers(0, 2**40) | st.integers(0, 3) | st.integers(0, 3).map(lambda n: n << 20), max_size=50))
def test_rows_by_rising_number(numbers: list[int]) -> None:
    column = np.array(numbers, np.int64)
    np.testing.assert_array_equal(rising(column), np.argsort(column, kind="stable"))


@given(st.lists(st.floats(allow_nan=False) | st.sampled_from([-0.0, 0.0, 0.5, -0.5, 1.0, 1 / 3]), max_size=50))
def test_rows_by_falling_score(scores: list[float]) -> None:
    column = np.array(scores, np.float64)
    np.testing.assert_array_equal(falling(column), np.argsort(-column, kind="stable"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_scores_with_ties(dtype: type) -> None:
    column = np.random.default_rng(0).normal(size=100_000).round(4).astype(dtype).astype(np.float64)
    np.testing.assert_array_equal(falling(column), np.argsort(-column, kind="stable"))
