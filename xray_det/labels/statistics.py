"""What a classification loss may know of its training data: how often each class occurs, and with which others."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xray_det.errors import InputError
from xray_det.labels.concurrence import Concurrence


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a loss asks of the training data beside the counts, which cost nothing.

    Attributes:
        concurrence_iou: concurrent rates, of objects that are two boxes of at least this IoU; None: no rates.
    """

    concurrence_iou: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassStatistics:
    """The statistics of all training images together, in unified classes.

    Args:
        image_counts: int64 [C], images that hold a box of the class; labels as they stand, not expanded.
        instance_counts: int64 [C], pairs of a box and a label, likewise.
        ancestors: bool [C, C], ``[c, a]``: a is an ancestor of c (labels/hierarchy.py).
        concurrence: the concurrent rates of the most specific labels; None where nobody asked for it.

    Raises:
        InputError: arrays that do not fit each other.
    """

    image_counts: npt.NDArray[np.int64]
    instance_counts: npt.NDArray[np.int64]
    ancestors: npt.NDArray[np.bool_]
    concurrence: Concurrence | None = None

    def __post_init__(self) -> None:
        c = len(self.image_counts)
        shapes = (self.image_counts.shape, self.instance_counts.shape, self.ancestors.shape)
        sizes = f"image counts {shapes[0]}, instance counts {shapes[1]}, ancestors {shapes[2]}"
        if self.concurrence is not None:
            sizes += f", rates of {self.concurrence.num_classes} classes"
        if shapes != ((c,), (c,), (c, c)) or (self.concurrence is not None and self.concurrence.num_classes != c):
            raise InputError("statistics", f"{sizes} do not fit", "Give all of them for one label space")

    @property
    def num_classes(self) -> int:
        return len(self.image_counts)

    def require(self, num_classes: int) -> None:
        """Raises InputError unless these are the statistics of so many classes."""
        if self.num_classes != num_classes:
            problem = f"are of {self.num_classes} classes, the detector has {num_classes}"
            raise InputError("statistics", problem, "Count the data that it is trained on")

    def subset(self, classes: npt.NDArray[np.int64], stands_for: npt.NDArray[np.bool_]) -> "ClassStatistics":
        """The statistics of a detector that learns some of the classes.

        Args:
            classes: int64 [L], each once and rising.
            stands_for: bool [C, L], which of them an object of each class is counted as (labels/supervision.py). An
                image with two classes that are counted as one of them counts twice.
        """
        counted = stands_for.astype(np.int64)
        return ClassStatistics(
            image_counts=self.image_counts @ counted,
            instance_counts=self.instance_counts @ counted,
            ancestors=self.ancestors[np.ix_(classes, classes)],
            concurrence=None if self.concurrence is None else self.concurrence.subset(classes),
        )

    def with_descendants(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Counts [C] of what is positive for a class: its own and its descendants'. What is published under a class and
        its ancestor counts twice for the ancestor."""
        total: npt.NDArray[np.int64] = counts + counts @ self.ancestors.astype(np.int64)
        return total
