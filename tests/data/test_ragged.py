"""Slices of many lengths against loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xray_det.data.ragged import elements, related


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), max_size=12))
def test_elements_are_those_of_the_slices(slices: list[tuple[int, int]]) -> None:
    first, count = (np.array([s[n] for s in slices], np.int64) for n in (0, 1))
    owner, element = elements(first, count)
    expected = [(i, at) for i, (start, many) in enumerate(slices) for at in range(start, start + many)]
    assert list(zip(owner.tolist(), element.tolist(), strict=True)) == expected


@given(st.data())
def test_related_are_those_that_the_relation_names(data: st.DataObject) -> None:
    classes, others = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    row = st.lists(st.booleans(), min_size=others, max_size=others)
    relation = np.array(data.draw(st.lists(row, min_size=classes, max_size=classes)), bool)
    labels = np.array(data.draw(st.lists(st.integers(0, classes - 1), max_size=8)), np.int64)
    owner, other = related(labels, relation)
    expected = [(i, k) for i, label in enumerate(labels) for k in range(others) if relation[label, k]]
    assert list(zip(owner.tolist(), other.tolist(), strict=True)) == expected
