"""Concurrent rates against dense arithmetic, one pair at a time."""

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xray_det.errors import InputError
from xray_det.labels.concurrence import Concurrence, PairCounts, share_interval

C = 4
#: objects [C], and a dense table [C, C] of which no entry is above its row's objects.
DENSE = hnp.arrays(np.int64, C, elements=st.integers(0, 6)).flatmap(
    lambda objects: st.tuples(
        st.just(objects),
        hnp.arrays(np.int64, (C, C), elements=st.integers(0, 6)).map(lambda table: np.minimum(table, objects[:, None])),
    )
)
#: Strictly upper triangular: no class is its own ancestor.
ANCESTORS = hnp.arrays(bool, (C, C)).map(lambda table: np.triu(table, 1))


def sparse(objects: npt.NDArray[np.int64], table: npt.NDArray[np.int64]) -> PairCounts:
    pairs = [(i, j) for i, j in product(range(C), range(C)) if i != j and table[i, j]]
    first, second = np.array(pairs, np.int32).reshape(-1, 2).T
    return PairCounts(objects=objects, first=first, second=second, count=table[first, second])


@given(DENSE, ANCESTORS, st.sampled_from([0.0, 0.25, 1.0]))
def test_rates_are_shares_and_hierarchy_pairs_are_set_apart(
    counts: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], ancestors: npt.NDArray[np.bool_], rate: float
) -> None:
    objects, table = counts
    plain = [[table[i, j] / objects[i] if i != j and objects[i] else 0 for j in range(C)] for i in range(C)]
    related = [[ancestors[i, j] or ancestors[j, i] for j in range(C)] for i in range(C)]
    pairs = sparse(objects, table)
    np.testing.assert_array_equal(Concurrence.of(pairs).dense(), np.float32(plain))
    apart = Concurrence.of(pairs, ancestors=ancestors)
    np.testing.assert_array_equal(apart.dense(), np.where(related, 0, np.float32(plain)))
    for found in (apart, Concurrence.of(pairs)):
        np.testing.assert_array_equal(
            found.with_hierarchy(ancestors, rate).dense(), np.where(related, np.float32(rate), np.float32(plain))
        )


@given(DENSE, DENSE, st.randoms(use_true_random=False))
def test_counts_of_parts_add_up_in_any_order(
    a: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    b: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    random: "np.random.RandomState",
) -> None:
    whole, both = sparse(*a) + sparse(*b), sparse(a[0] + b[0], a[1] + b[1])
    x, y = sparse(*a), sparse(*b)
    order = np.arange(len(x.first) + len(y.first))
    random.shuffle(order)
    joined = [np.append(getattr(x, name), getattr(y, name))[order] for name in ("first", "second", "count")]
    for name in ("objects", "first", "second", "count"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(both, name))
        np.testing.assert_array_equal(
            getattr(PairCounts.summed(a[0] + b[0], *joined), name), getattr(both, name), err_msg=name
        )


def test_sizes_and_types_are_those_of_the_docstrings() -> None:
    counts = PairCounts.summed(np.array([3, 1]), np.array([0, 1, 0]), np.array([1, 0, 1]), np.array([1, 1, 1]))
    rates = Concurrence.of(counts)
    assert [getattr(counts, n).dtype for n in ("objects", "first", "second", "count")] == [
        *(np.int64, np.int32, np.int32, np.int64)
    ]
    assert [getattr(rates, n).dtype for n in ("row", "column", "rate")] == [np.int32, np.int32, np.float32]
    again = rates.with_hierarchy(np.array([[False, True], [False, False]]), 0.5)
    assert [getattr(again, n).dtype for n in ("row", "column", "rate")] == [np.int32, np.int32, np.float32]
    assert (again.row.tolist(), again.column.tolist(), again.rate.tolist()) == ([0, 1], [1, 0], [0.5, 0.5])


def test_none_at_all() -> None:
    empty = PairCounts.summed(np.zeros(0, int), *(np.zeros(0, int),) * 3)
    assert Concurrence.of(empty, ancestors=np.zeros((0, 0), bool)).dense().shape == (0, 0)
    assert not Concurrence.of(sparse(np.zeros(C, np.int64), np.zeros((C, C), np.int64))).dense().any()


@given(st.integers(1, 1000).flatmap(lambda total: st.tuples(st.integers(1, total), st.just(total))))
def test_intervals_end_where_the_share_is_196_deviations_away(share: tuple[int, int]) -> None:
    count, total = (np.array([number]) for number in share)
    low, high = share_interval(count, total)
    assert 0 <= low < count / total <= high <= 1 + 1e-15
    for end in (low, high):  # Wilson's defining equation: the deviation is that of a true share at the end
        away = abs(count / total - end)
        np.testing.assert_allclose(away, 1.959964 * np.sqrt(abs(end * (1 - end)) / total), rtol=1e-6, atol=1e-7)


def rates(row: list[int], column: list[int], rate: list[float]) -> Concurrence:
    return Concurrence(
        num_classes=3, row=np.array(row, np.int32), column=np.array(column, np.int32), rate=np.array(rate, np.float32)
    )


@pytest.mark.parametrize(
    ("row", "column", "rate", "says"),
    [
        ([0], [1], [1.5], r"class 0 to class 1 is 1\.5, outside \(0, 1\]"),
        ([0], [1], [-0.1], "outside"),
        ([0], [1], [0.0], "leave out the pairs whose rate is 0"),
        ([0], [1], [float("nan")], "is nan"),
        ([0, 0], [1, 1], [0.5, 0.6], "classes 0 and 1 stands in two places"),
        ([1, 0], [0, 1], [0.5, 0.5], "out of order"),
        ([2], [2], [0.5], "class 2 is paired with itself"),
        ([0], [3], [0.5], "class 3 is none of 3"),
        ([-1], [1], [0.5], "class -1"),
        ([0, 1], [1], [0.5], "do not fit"),
    ],
)
def test_bad_rates_are_named(row: list[int], column: list[int], rate: list[float], says: str) -> None:
    with pytest.raises(InputError, match=says):
        rates(row, column, rate)


def test_bad_counts_and_bad_hierarchies_are_named() -> None:
    one = np.ones(1, np.int64)
    with pytest.raises(InputError, match="more objects carry a second label than there are"):
        PairCounts.summed(np.array([1, 1]), one * 0, one, one * 2)
    with pytest.raises(InputError, match="class 5 is none of 2"):
        PairCounts(objects=np.ones(2, np.int64), first=one.astype(np.int32) * 5, second=one.astype(np.int32), count=one)
    with pytest.raises(InputError, match="class 2 is none of 2"):  # as a number of a pair it would pass for (1, 0)
        PairCounts.summed(np.ones(2, np.int64), one * 0, one * 2, one)
    with pytest.raises(InputError, match="2 and 3 classes"):
        PairCounts.summed(np.ones(2, int), *(one[:0],) * 3) + PairCounts.summed(np.ones(3, int), *(one[:0],) * 3)
    r = rates([0], [1], [0.5])
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="hierarchy_rate"):
            r.with_hierarchy(np.zeros((3, 3), bool), rate)
    with pytest.raises(InputError, match=r"bool \(2, 2\) is not bool \[3, 3\]"):
        r.with_hierarchy(np.zeros((2, 2), bool), 1.0)
