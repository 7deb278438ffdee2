"""Concurrent rates r_ij: of the objects of class i, the share that is also labelled j (paper 002, section 4.1.1).

Both tables are sparse, as lists of (row, column, value) sorted by row and column: of the pairs of Open Images' 600
classes some thousands occur. What an object is, and which labels count, is data/concurrence.py's to say.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairCounts:
    """How many objects each class has, and how many of them carry another class too. Those of two datasets add up.

    The two directions of a pair may differ: two boxes of class i on one box of class j are two objects of i, one of j.

    Args:
        objects: int64 [C], objects of class i.
        first, second: int32 [nnz] classes, never the same one, sorted by first, then second, each pair once.
        count: int64 [nnz], objects of class ``first`` that also carry ``second``: 1 to ``objects[first]``.

    Raises:
        InputError: arrays that break these rules.
    """

    objects: npt.NDArray[np.int64]
    first: npt.NDArray[np.int32]
    second: npt.NDArray[np.int32]
    count: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        _check_pairs("pair counts", len(self.objects), self.first, self.second, self.count)
        if ((self.count < 1) | (self.count > self.objects[self.first])).any():
            raise InputError("pair counts", "more objects carry a second label than there are, or none", "Count again")

    @classmethod
    def summed(
        cls,
        objects: npt.NDArray[np.integer],
        first: npt.NDArray[np.integer],
        second: npt.NDArray[np.integer],
        count: npt.NDArray[np.integer],
    ) -> "PairCounts":
        """From pairs in any order; the counts of a pair that is given several times are added."""
        _check_classes("pair counts", len(objects), first, second)
        size = max(len(objects), 1)
        pairs, place = np.unique(first.astype(np.int64) * size + second, return_inverse=True)
        total = np.zeros(len(pairs), np.int64)
        np.add.at(total, place, count)
        row, column = np.divmod(pairs, size)
        return cls(
            objects=objects.astype(np.int64), first=row.astype(np.int32), second=column.astype(np.int32), count=total
        )

    def __add__(self, other: "PairCounts") -> "PairCounts":
        if len(self.objects) != len(other.objects):
            sizes = f"{len(self.objects)} and {len(other.objects)} classes"
            raise InputError("pair counts", f"{sizes} cannot be added", "Count in one label space")
        return PairCounts.summed(
            self.objects + other.objects,
            np.concatenate([self.first, other.first]),
            np.concatenate([self.second, other.second]),
            np.concatenate([self.count, other.count]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Concurrence:
    """r, the concurrent rates of C classes: sparse, not symmetric, with r_ii = 0.

    Args:
        num_classes: C.
        row, column: int32 [nnz], i and j, never the same one, sorted by i, then j, each pair once.
        rate: float32 [nnz], r_ij in (0, 1]; what is not listed is 0.

    Raises:
        InputError: a rate outside (0, 1], a class outside [0, C), a pair of one class, or one that is there twice.
    """

    num_classes: int
    row: npt.NDArray[np.int32]
    column: npt.NDArray[np.int32]
    rate: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        _check_pairs("concurrent rates", self.num_classes, self.row, self.column, self.rate)
        if (wrong := ~((self.rate > 0) & (self.rate <= 1))).any():  # true for NaN as well
            at = int(np.flatnonzero(wrong)[0])
            problem = f"r of class {self.row[at]} to class {self.column[at]} is {self.rate[at]}, outside (0, 1]"
            raise InputError("concurrent rates", problem, "Give a share; leave out the pairs whose rate is 0")

    @classmethod
    def of(cls, counts: PairCounts, *, ancestors: Bools | None = None) -> "Concurrence":
        """r_ij = objects of class i that also carry j / objects of class i.

        Args:
            ancestors: bool [C, C] (labels/hierarchy.py). Given, a class and its ancestor, near or far, have no rate in
                either direction: a Woman labelled Person is no confusion. ``with_hierarchy`` sets what they have.
        """
        rates = counts.count / counts.objects[counts.first]
        found = cls(
            num_classes=len(counts.objects), row=counts.first, column=counts.second, rate=rates.astype(np.float32)
        )
        return found if ancestors is None else found.with_hierarchy(ancestors, 0.0)

    def with_hierarchy(self, ancestors: Bools, rate: float) -> "Concurrence":
        """These rates with r_ij = r_ji = ``rate`` for every class and each of its ancestors.

        Args:
            ancestors: bool [C, C], ``[c, a]``: a is an ancestor of c.
            rate: 0 (they suppress each other as strangers do) to 1 (never).

        Raises:
            InputError: a rate outside [0, 1], or ancestors of another shape.
        """
        if not 0 <= rate <= 1:
            raise InputError("hierarchy_rate", f"{rate} is not a share", "Give 0 to 1")
        related = _related(ancestors, self.num_classes)
        stays = ~related[self.row, self.column]
        row, column = np.nonzero(related & (rate > 0))  # a rate of 0 is not stored
        row, column = np.append(self.row[stays], row), np.append(self.column[stays], column)
        rates = np.append(self.rate[stays], np.full(len(row) - stays.sum(), rate, np.float32))
        order = np.lexsort([column, row])
        return Concurrence(
            num_classes=self.num_classes,
            row=row[order].astype(np.int32),
            column=column[order].astype(np.int32),
            rate=rates[order],
        )

    def subset(self, classes: npt.NDArray[np.int64]) -> "Concurrence":
        """The rates between some classes, int64 [L], each once and rising: L classes are left."""
        place = np.full(self.num_classes, -1, np.int32)
        place[classes] = np.arange(len(classes))
        row, column = place[self.row], place[self.column]
        stays = (row >= 0) & (column >= 0)
        return Concurrence(num_classes=len(classes), row=row[stays], column=column[stays], rate=self.rate[stays])

    def dense(self) -> npt.NDArray[np.float32]:
        """r as float32 [C, C]."""
        out = np.zeros((self.num_classes, self.num_classes), np.float32)
        out[self.row, self.column] = self.rate
        return out


def share_interval(
    count: npt.NDArray[np.integer], total: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Wilson's 95 % interval of the shares count / total, low and high: 3 of 3 may be a share of 0.44.

    Ranked by the low end, rates of few objects do not come before those of many.
    """
    z = 1.959964  # of the normal distribution
    share = count / total
    middle, half = count + z**2 / 2, z * np.sqrt(count * (1 - share) + z**2 / 4)
    low, high = (middle - half) / (total + z**2), (middle + half) / (total + z**2)
    return np.minimum(low, share), np.maximum(high, share)  # a share of 1 is not above its interval by rounding


def _related(ancestors: Bools, num_classes: int) -> Bools:
    if ancestors.shape != (num_classes, num_classes) or ancestors.dtype != bool:
        problem = f"{ancestors.dtype} {ancestors.shape} is not bool [{num_classes}, {num_classes}]"
        raise InputError("ancestors", problem, "Give the ancestors in the same label space")
    related: Bools = ancestors | ancestors.T
    return related


def _check_pairs(
    where: str,
    num_classes: int,
    row: npt.NDArray[np.integer],
    column: npt.NDArray[np.integer],
    value: npt.NDArray[np.generic],
) -> None:
    if not row.shape == column.shape == value.shape == (len(row),):
        shapes = f"rows {row.shape}, columns {column.shape} and values {value.shape}"
        raise InputError(where, f"{shapes} do not fit", "Give three lists of one length")
    _check_classes(where, num_classes, row, column)
    if (same := row == column).any():
        raise InputError(where, f"class {row[same][0]} is paired with itself", "Leave that pair out")
    step = np.diff(row.astype(np.int64) * num_classes + column)
    if (step <= 0).any():
        at = int(np.flatnonzero(step <= 0)[0]) + 1
        how = "stands in two places" if step[at - 1] == 0 else "stands out of order"
        raise InputError(where, f"the pair of classes {row[at]} and {column[at]} {how}", "Give each pair once, sorted")


def _check_classes(where: str, num_classes: int, *rows: npt.NDArray[np.integer]) -> None:
    for labels in rows:
        if (odd := (labels < 0) | (labels >= num_classes)).any():
            raise InputError(where, f"class {labels[odd][0]} is none of {num_classes}", "Give rows of the label space")
