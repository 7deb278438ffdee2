"""Precision against recall for one class, and the area below it.

R marks counted detections in order of falling score. A detection counts with a hit in [0, 1]: 1 for a true positive,
0 for a false one, the group-of weight where a protocol gives a group of objects less than a full count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One class: recall and precision after each counted detection, and the score at which it stands.

    Attributes:
        recall: float64 [R], rising.
        precision: float64 [R], as counted; ``envelope`` makes it fall.
        scores: float64 [R], falling.
    """

    recall: Floats
    precision: Floats
    scores: Floats

    @property
    def envelope(self) -> Floats:
        """float64 [R]: the best precision at this recall or a higher one."""
        return np.maximum.accumulate(self.precision[::-1])[::-1]


def trace(hits: Floats, scores: Floats, positives: float) -> Curve:
    """The curve of one class.

    Args:
        hits: float64 [R], by falling score: what the detection adds to the true positives; 0 is a false positive.
        scores: float64 [R], falling.
        positives: how much truth there is to find, more than 0.
    """
    found = np.cumsum(hits)
    wrong = np.cumsum(hits <= 0)
    return Curve(recall=found / positives, precision=found / (found + wrong), scores=scores)


def area(curve: Curve) -> float:
    """Every-point average precision (VOC since 2010, Open Images): the area under the falling envelope.

    Recall the detections never reach counts with precision 0.
    """
    if not len(curve.recall):
        return 0.0
    recall = np.concatenate(([0.0], curve.recall))
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * curve.envelope[steps]))


def eleven_point(curve: Curve) -> float:
    """VOC 2007's average precision: the mean envelope at recall 0, 0.1, ... 1.

    The eleven levels are multiples of 0.1 in float64, as in the public evaluators: the fourth is a last bit above
    0.3, so that a recall of exactly 3 in 10 does not reach it.
    """
    levels = np.linspace(0.0, 1.0, 11)
    at = np.searchsorted(curve.recall, levels, side="left")
    envelope = np.append(curve.envelope, 0.0)
    return float(np.mean(envelope[at]))
