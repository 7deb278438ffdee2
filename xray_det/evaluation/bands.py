"""Average precision of the head, the middle and the tail of the classes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from xray_det.errors import InputError
from xray_det.evaluation.result import Result, mean


def by_band(result: Result, bands: Mapping[str, NDArray[np.integer]]) -> dict[str, float]:
    """The mean average precision of each band, over its classes that the truth has something of; NaN where none.

    Args:
        result: of any protocol.
        bands: band -> rows of ``result.space``, as labels/frequency.bands gives them from *training* counts: a band
            says how often a class could be learnt, not how often it is tested.

    Raises:
        InputError: a row outside the result's classes.
    """
    for name, rows in bands.items():
        if len(rows) and (rows.min() < 0 or rows.max() >= len(result.ap)):
            raise InputError(
                f"band {name}", f"row {rows.max()} is no class of {len(result.ap)}", "Count in the label space scored"
            )
    return {f"AP_{name}": mean(result.ap[rows]) for name, rows in bands.items()}
