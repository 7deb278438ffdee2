"""What every protocol returns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xray_det.evaluation.curves import Curve
from xray_det.labels.space import LabelSpace


@dataclass(frozen=True, kw_only=True)
class Result:
    """The numbers of one protocol.

    Attributes:
        protocol: ``coco``, ``lvis``, ``voc`` or ``open_images``.
        metrics: the protocol's own names and values. COCO's and LVIS's undefined values are -1, as their own tools
            print them; the other protocols' are NaN.
        space: the classes, in the order of ``ap``.
        ap: float64 [C], average precision a class; NaN where the truth has nothing to find.
        boxes: int64 [C], boxes of each class that there are to find, without those that stand for a region.
        curves: row of a class -> its curve (for COCO and LVIS at IoU 0.5); classes without truth have none.
    """

    protocol: str
    metrics: Mapping[str, float]
    space: LabelSpace
    ap: NDArray[np.float64]
    boxes: NDArray[np.int64]
    curves: Mapping[int, Curve] = field(default_factory=dict)

    @property
    def per_class(self) -> dict[str, float]:
        """Class -> average precision, NaN where undefined: by published id for Open Images, else by name."""
        keys = (c.source_id if self.protocol == "open_images" else c.name for c in self.space.classes)
        return dict(zip(keys, self.ap.tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """``metrics`` and ``per_class`` in one JSON-able table; NaN becomes None, -1 stays."""
        return {name: finite(value) for name, value in self.metrics.items()} | {
            "per_class": {name: finite(value) for name, value in self.per_class.items()}
        }


def finite(value: float) -> float | None:
    """The value, or None (JSON's null) for NaN."""
    return None if math.isnan(value) else float(value)


def mean(values: NDArray[np.float64]) -> float:
    """The mean of what is defined; NaN when nothing is."""
    defined = values[~np.isnan(values)]
    return float(np.mean(defined)) if len(defined) else math.nan
