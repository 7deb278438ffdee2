"""Images that stand in a dataset twice: by their bytes, and by a perceptual hash for re-encoded or resized copies."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from xray_det.data.ragged import elements

#: Bits of 64 by which two perceptual hashes of one picture may differ. Re-encoding, resizing and mild colour changes
#: move few bits; independent pictures differ in 32 on average, and in at most 4 with probability 4e-14.
ALIKE_DISTANCE: Final = 4
_CANDIDATES: Final = 2_000_000  # compared at once: 16 MB of hashes


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Rows that have a twin: ``row[k]`` is named after ``other[k]``; ``distance`` in bits, 0 for equal bytes."""

    row: np.ndarray
    other: np.ndarray
    distance: np.ndarray


def same_bytes(sha1: np.ndarray) -> Twins:
    """Each row whose bytes an earlier row has, with the first row that has them.

    Args:
        sha1: [N] of dtype S20. 1.7 M images sort in about a second, in 60 MB.

    Returns:
        Twins in rising order of row; n copies of one picture give n - 1 rows.
    """
    _, first, inverse = np.unique(sha1, return_index=True, return_inverse=True)
    other = first[inverse]
    rows = np.flatnonzero(other != np.arange(len(sha1)))
    return Twins(row=rows, other=other[rows], distance=np.zeros(len(rows), np.int64))


def across_splits(hashes: np.ndarray, splits: np.ndarray, *, distance: int) -> Twins:
    """Images of a smaller split that stand in a larger one too, each with its nearest twin there.

    Args:
        hashes: [N] uint64. For equal bytes, any 64 bits of the digest; for likeness, the perceptual hash.
        splits: [N] int, the split of each image; negative: in none, left out.
        distance: bits by which twins may differ, 0 to 7.

    Returns:
        Twins in rising order of row. An image that has twins in several larger splits is named once, after the
        nearest; equally large splits count in the order of their numbers.
    """
    found: dict[int, tuple[int, int]] = {}
    numbers, sizes = np.unique(splits[splits >= 0], return_counts=True)
    by_size = numbers[np.lexsort((numbers, -sizes))]
    for place, small in enumerate(by_size):
        rows = np.flatnonzero(splits == small)
        larger = np.flatnonzero(np.isin(splits, by_size[:place]))
        nearest, bits = nearest_within(hashes[rows], hashes[larger], distance)
        for k in np.flatnonzero(nearest >= 0):
            found[int(rows[k])] = (int(larger[nearest[k]]), int(bits[k]))
    order = sorted(found)
    return Twins(
        row=np.array(order, np.int64),
        other=np.array([found[row][0] for row in order], np.int64),
        distance=np.array([found[row][1] for row in order], np.int64),
    )


def nearest_within(query: np.ndarray, base: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of ``base`` for each hash of ``query``, exactly, without comparing every pair.

    Two hashes that differ in at most d bits agree in at least one of d + 1 bands of bits (pigeonhole), so only hashes
    that share a band are compared: about (d + 1) / 2^(64 / (d + 1)) of all pairs.

    Args:
        query, base: [Q], [N] uint64.
        distance: d, 0 to 7.

    Returns:
        row of base [Q] int64, the first of the nearest, -1 where none lies within d; and its distance [Q].
    """
    if not 0 <= distance <= 7:
        raise ValueError(f"distance {distance} is not in 0..7: bands would be too narrow to save work")
    base, first_row = np.unique(base, return_index=True)  # identical pictures (all black) would fill one bucket
    best = np.full(len(query), 65, np.int64)
    row = np.full(len(query), -1, np.int64)
    edges = np.linspace(0, 64, distance + 2).astype(np.uint64)
    for low, high in pairwise(edges):
        mask = np.uint64((1 << int(high - low)) - 1)
        keys = (base >> low) & mask
        order = np.argsort(keys, kind="stable")
        wanted = (query >> low) & mask
        start = np.searchsorted(keys[order], wanted, "left")
        count = np.searchsorted(keys[order], wanted, "right") - start
        for part in _runs(count):
            q, at = elements(start[part], count[part])
            q, b = part.start + q, order[at]
            bits = np.bitwise_count(query[q] ^ base[b]).astype(np.int64)
            near = bits <= distance
            q, b, bits = q[near], first_row[b[near]], bits[near]
            ranked = np.lexsort((b, bits, q))
            q, b, bits = q[ranked], b[ranked], bits[ranked]
            head = np.flatnonzero(np.diff(q, prepend=-1))
            q, b, bits = q[head], b[head], bits[head]
            better = (bits < best[q]) | ((bits == best[q]) & (b < row[q]))
            best[q[better]], row[q[better]] = bits[better], b[better]
    return row, np.where(row >= 0, best, -1)


def _runs(count: np.ndarray) -> Iterator[slice]:
    """Slices of the queries, each with at most _CANDIDATES comparisons (or one query)."""
    total = np.concatenate([[0], np.cumsum(count)])
    start = 0
    while start < len(count):
        stop = int(np.searchsorted(total, total[start] + _CANDIDATES, "right")) - 1
        stop = max(stop, start + 1)
        yield slice(start, stop)
        start = stop
