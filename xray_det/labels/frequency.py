"""How often each class occurs: bands for reporting, and the imbalance of a dataset."""

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


def imbalance_magnitude(counts: npt.NDArray[np.integer]) -> float:
    """The largest count divided by the smallest of the classes that occur (paper 002, Fig. 2); nan without any."""
    occurring = counts[counts > 0]
    return float(occurring.max() / occurring.min()) if occurring.size else float("nan")
