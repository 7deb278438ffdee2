"""Slices of many lengths, taken all at once."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]


def elements(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """The elements of the slices ``first[i] : first[i] + count[i]``, one slice after another.

    Args:
        first, count: int64 [n].

    Returns:
        owner: int64 [sum of counts], i of each element.
        element: int64 [sum of counts].
    """
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) + np.repeat(first - (np.cumsum(count) - count), count)


def related(labels: npt.NDArray[np.integer[Any]], relation: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """What a relation of classes makes of labels.

    Args:
        labels: integers [n], classes.
        relation: bool [C, K].

    Returns:
        row: int64 [m], rising, and other: int64 [m], each k with ``relation[labels[row], k]``.
    """
    others = np.nonzero(relation)[1]
    size = relation.sum(axis=1)
    row, at = elements((np.cumsum(size) - size)[labels], size[labels])
    return row, others[at]
