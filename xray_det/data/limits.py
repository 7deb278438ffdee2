"""How much of what a detector says becomes detections: what it was set to, and what a protocol needs. Torch-free."""

from dataclasses import dataclass, replace
from typing import Final, Self

from xray_det.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is kept of a detector's (box, class) pairs.

    Attributes:
        score_threshold: pairs that score no more are dropped, in [0, 1].
        candidates: best pairs a pyramid level (of all proposals, in a two-stage detector) that enter suppression.
        max_detections: of an image, all classes together.
    """

    score_threshold: float = 0.05
    candidates: int = 1000
    max_detections: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold <= 1:
            raise InputError(
                "decoding.score_threshold", f"{self.score_threshold} is outside [0, 1]", "Give a share such as 0.05"
            )
        for name in ("candidates", "max_detections"):
            if getattr(self, name) < 1:
                raise InputError(f"decoding.{name}", f"{getattr(self, name)} is below 1", "Give a number")

    def widened(self, other: "Limits") -> Self:
        """Keeps what either keeps; what else ``self`` says stays."""
        return replace(
            self,
            score_threshold=min(self.score_threshold, other.score_threshold),
            candidates=max(self.candidates, other.candidates),
            max_detections=max(self.max_detections, other.max_detections),
        )

    def covers(self, other: "Limits") -> bool:
        """Whether all that ``other`` keeps is kept."""
        return self.widened(other) == self


#: Of LVIS (1203 classes) in detectron2 and mmdetection: 300 detections above 0.0001. Neither limits the pairs that a
#: two-stage detector suppresses; so many let the 300 fill up (experiments/results/decoding.md).
MANY_CLASSES: Final = Limits(score_threshold=1e-4, candidates=10_000, max_detections=300)


def usual(classes: int) -> Limits:
    """What average precision over so many classes is measured on.

    COCO's 80 are measured on 100 detections above 0.05 (detectron2, mmdetection). More classes share an image's
    detections, and rare ones score low: beyond 80 it is ``MANY_CLASSES``.
    """
    return Limits() if classes <= 80 else MANY_CLASSES
