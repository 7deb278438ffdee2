"""What a protocol says of each detection, and the curves that follow: the two halves of an evaluation.

In VOC and Open Images a detection is judged within its own image. So parts of the images are judged anywhere, in any
order, and only what enters the curves comes together: 13 bytes a detection that counts. Joined in the order of the
images, parts give the verdicts of the whole, ties of score included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from xray_det.evaluation.columns import Detected
from xray_det.evaluation.curves import Curve, area, trace
from xray_det.evaluation.sorting import falling, rising

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Verdict(IntEnum):
    """What a detection is."""

    MISS = 0
    HIT = 1
    GROUP = 2  # stands for all detections on a group of objects (Open Images)
    IGNORED = 3  # enters no curve


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The detections of some images that count, by falling score; equal scores in the order they were written in.

    Attributes:
        label: int32 [R].
        scores: float64 [R], falling.
        verdict: uint8 [R], a Verdict, none IGNORED.
        boxes: int64 [C], boxes of each class that there are to find.
        groups: int64 [C], groups of objects that there are to find.
    """

    label: NDArray[np.int32]
    scores: Floats
    verdict: NDArray[np.uint8]
    boxes: Ints
    groups: Ints

    @classmethod
    def of(cls, detected: Detected, verdict: NDArray[np.uint8], *, boxes: Ints, groups: Ints) -> "Verdicts":
        """Judged detections.

        Args:
            detected: M detections.
            verdict: uint8 [M].
            boxes: int64 [C].
            groups: int64 [C].
        """
        rows = np.flatnonzero(verdict != Verdict.IGNORED)
        rows = rows[falling(detected.scores[rows])]
        return cls(
            label=detected.label[rows],
            scores=detected.scores[rows],
            verdict=verdict[rows],
            boxes=boxes,
            groups=groups,
        )

    @classmethod
    def join(cls, parts: "Sequence[Verdicts]") -> "Verdicts":
        """The verdicts of all images, from those of one or more parts in the order of the images."""
        scores = np.concatenate([part.scores for part in parts])
        rows = falling(scores)
        return cls(
            label=np.concatenate([part.label for part in parts])[rows],
            scores=scores[rows],
            verdict=np.concatenate([part.verdict for part in parts])[rows],
            boxes=np.sum([part.boxes for part in parts], axis=0),
            groups=np.sum([part.groups for part in parts], axis=0),
        )

    def take(self, rows: NDArray[np.bool_] | Ints | slice) -> "Verdicts":
        """These detections, in this order; what there is to find stays."""
        return Verdicts(
            label=self.label[rows],
            scores=self.scores[rows],
            verdict=self.verdict[rows],
            boxes=self.boxes,
            groups=self.groups,
        )

    def curve(self, positives: float, group_weight: float) -> Curve:
        """All detections in one curve.

        Args:
            positives: how much there is to find, more than 0.
            group_weight: what a GROUP counts, more than 0.
        """
        gain = np.array([0.0, 1.0, group_weight])  # of MISS, HIT, GROUP
        return trace(gain[self.verdict], self.scores, positives)

    def by_class(
        self, *, group_weight: float = 1.0, average: Callable[[Curve], float] = area
    ) -> tuple[Floats, dict[int, Curve]]:
        """Average precision a class, float64 [C], NaN where there is nothing to find; and the curves of the others.

        Args:
            group_weight: what a GROUP counts, more than 0, or anything where there is none.
            average: the average precision of a curve.
        """
        classes = len(self.boxes)
        positives = self.boxes + group_weight * self.groups
        ordered = self.take(rising(self.label))
        offsets = np.searchsorted(ordered.label, np.arange(classes + 1))
        ap, curves = np.full(classes, np.nan), {}
        for row in np.flatnonzero(positives):
            own = ordered.take(slice(offsets[row], offsets[row + 1]))
            curves[int(row)] = own.curve(float(positives[row]), group_weight)
            ap[row] = average(curves[int(row)])
        return ap, curves
