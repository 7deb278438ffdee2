"""One detector against another, class by class: which bands and how many classes rose and fell."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xray_det.evaluation.comparison import Against, Floats
from xray_det.evaluation.result import mean


@dataclass(frozen=True, kw_only=True)
class Gains:
    """A detector on one dataset.

    Attributes:
        ap: mean average precision of the classes that the detector has and the truth has something of; NaN where none.
        bands: the same for each band.
        zero: how many of those classes have an average precision of 0, out of ``classes``.
        rose, fell: how many of them are better and worse than the other detector's.
    """

    ap: float
    bands: Mapping[str, float]
    zero: int
    classes: int
    rose: int
    fell: int


def gains(ap: Floats, before: Floats, bands: Mapping[str, NDArray[np.integer]]) -> Gains:
    """What became of the classes.

    Args:
        ap: [C], NaN where the truth has nothing of a class or the detector lacks it.
        before: [C] of the detector compared with.
        bands: band -> class rows.
    """
    known = ~np.isnan(ap)
    against = Against(difference=ap - before, beyond=None)
    return Gains(
        ap=mean(ap),
        bands={name: mean(ap[rows]) for name, rows in bands.items()},
        zero=int((ap[known] == 0).sum()),
        classes=int(known.sum()),
        rose=against.rose,
        fell=against.fell,
    )
