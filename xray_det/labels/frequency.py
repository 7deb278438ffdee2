"""How often each class occurs: bands for reporting, and the imbalance of a dataset."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError

#: The names of three bands, by falling frequency.
BANDS = ("head", "middle", "tail")


def bands(
    counts: npt.NDArray[np.integer], edges: tuple[float, float] = (1 / 3, 2 / 3)
) -> dict[str, npt.NDArray[np.int64]]:
    """Class rows of the head, the middle and the tail.

    Args:
        counts: [C], how often each class occurs (images, or instances). Classes with 0 are in no band.
        edges: the shares of the counted classes at which the head and the middle end.

    Returns:
        Rows by falling count, equal counts by row. A band may be empty when classes are few.

    Raises:
        InputError: edges that do not rise between 0 and 1, or a negative count.
    """
    if not 0 <= edges[0] <= edges[1] <= 1:
        raise InputError("bands.edges", f"{edges} does not rise between 0 and 1", "Give two shares, e.g. 0.33 0.67")
    order = ranked(counts)
    ends = [0, *(round(edge * len(order)) for edge in edges), len(order)]
    return {name: order[a:b] for name, (a, b) in zip(BANDS, pairwise(ends), strict=True)}


def ranked(counts: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The classes that occur at all, by falling count, equal counts by row: int64 [<= C]."""
    if counts.size and counts.min() < 0:
        raise InputError("counts", f"{counts.min()} is below 0", "Count again")
    order = np.argsort(-counts.astype(np.int64), kind="stable")
    return order[counts[order] > 0]


def rank_bands(counts: npt.NDArray[np.integer], ranks: Sequence[tuple[int, int]]) -> tuple[npt.NDArray[np.int64], ...]:
    """Class rows of bands of ranks; rank 1 is the class that occurs most.

    Args:
        counts: [C], how often each class occurs. Classes with 0 have no rank.
        ranks: first and last rank of each band.

    Raises:
        InputError: a band without a class, or a rank in two bands.
    """
    order = ranked(counts)
    for first, last in ranks:
        if not 1 <= first <= last <= len(order):
            problem = f"{first}-{last} is no range of the {len(order)} classes that occur"
            raise InputError("bands", problem, f"Give FIRST-LAST with ranks from 1 to {len(order)}")
    for (a, last), (first, b) in pairwise(sorted(ranks)):
        if first <= last:
            raise InputError("bands", f"{a}-{last} and {first}-{b} overlap", "Give each rank to one band")
    return tuple(order[first - 1 : last] for first, last in ranks)


def expert_ranks(classes: int) -> tuple[tuple[int, int], ...]:
    """Ranks that experts learn: paper 003's for the 365 classes of Objects365, else the middle and the tail.

    Args:
        classes: how many occur.
    """
    if classes == 365:
        return (151, 300), (301, 365)
    third = [round(classes * part / 3) for part in range(4)]
    return tuple((first + 1, last) for first, last in pairwise(third[1:]) if first < last)


def imbalance_magnitude(counts: npt.NDArray[np.integer]) -> float:
    """The largest count divided by the smallest of the classes that occur (paper 002, Fig. 2); nan without any."""
    occurring = counts[counts > 0]
    return float(occurring.max() / occurring.min()) if occurring.size else float("nan")
