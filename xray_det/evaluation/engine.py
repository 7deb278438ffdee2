"""The matching that COCO and LVIS share, and the arrays of precision and recall it ends in.

hotcoco does it (compiled, a hundred times faster than pycocotools and a tenth of its memory), behind
``precision_recall`` alone. Its arrays equal pycocotools' and lvis-api's to the last bit, which the tests check with
crowds, every area limit, ties and overflowing images; means are taken here, in the references' order of summation.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xray_det.data.schema import BoxFlag
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.curves import Curve

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")
#: The average precisions that both protocols print -> what each is the mean of (PrecisionRecall.mean).
AVERAGE_PRECISIONS: Final[dict[str, dict[str, Any]]] = {
    "AP": {"kind": "AP"},
    "AP50": {"kind": "AP", "iou": 0.5},
    "AP75": {"kind": "AP", "iou": 0.75},
    "APs": {"kind": "AP", "area": "small"},
    "APm": {"kind": "AP", "area": "medium"},
    "APl": {"kind": "AP", "area": "large"},
}


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """pycocotools' ``eval`` arrays; -1 where a class has nothing to find.

    Attributes:
        classes: int64 [C], the row of the label space that stands at each place of the class axis.
        limits: L rising numbers of detections: COCO's 1, 10 and 100 an image and class, LVIS's 300 an image.
        precision: float64 [10 thresholds, 101 recall levels, C, 4 areas, L].
        recall: float64 [10, C, 4, L].
        scores: float64, of the same shape as ``precision``.
    """

    classes: Ints
    limits: tuple[int, ...]
    precision: Floats
    recall: Floats
    scores: Floats

    def mean(
        self,
        kind: str,
        *,
        iou: float | None = None,
        area: str = "all",
        limit: int | None = None,
        classes: Ints | None = None,
    ) -> float:
        """The mean over what is defined; -1 when nothing is.

        Args:
            kind: AP or AR.
            iou: a threshold; None: all ten.
            area: of AREAS.
            limit: of ``limits``; None: the largest.
            classes: places of the class axis; None: all.
        """
        values = self.precision if kind == "AP" else self.recall
        if iou is not None:
            values = values[np.isclose(IOU_THRESHOLDS, iou)]
        values = values[..., AREAS.index(area), -1 if limit is None else self.limits.index(limit)]
        if classes is not None:
            values = values[..., classes]
        values = values[values > -1]
        return float(np.mean(values)) if len(values) else -1.0

    def by_class(self) -> tuple[Floats, dict[int, Curve]]:
        """AP over all thresholds a class, float64 [C], NaN where undefined; and curves at IoU 0.5 on 101 recall levels.

        Both in rows of the label space, over all areas at the largest limit.
        """
        every, scores = self.precision[:, :, :, 0, -1], self.scores[0, :, :, 0, -1]
        defined = np.flatnonzero(every[0, 0] > -1)
        ap = np.full(len(self.classes), np.nan)
        ap[self.classes[defined]] = every[:, :, defined].mean(axis=(0, 1))
        curves = {
            int(self.classes[k]): Curve(recall=RECALL_LEVELS, precision=every[0, :, k], scores=scores[:, k])
            for k in defined
        }
        return ap, curves


def precision_recall(truth: Truth, detected: Detected, *, federated: bool) -> PrecisionRecall:
    """Match and accumulate: the only function that knows the engine.

    Images are numbered in ``truth.image_ids``' order and classes by ``class_order``, so that ties of score between
    images and sums over classes come in the references' order.

    Args:
        federated: LVIS's rules (lvis.py); else COCO's (coco.py).
    """
    import hotcoco

    classes = class_order(truth)
    number = np.empty(len(classes), np.int64)
    number[classes] = np.arange(1, len(classes) + 1)
    images: list[dict[str, Any]] = [{"id": row + 1, "width": 1, "height": 1} for row in range(len(truth.image_ids))]
    area, crowd = truth.area, truth.has(BoxFlag.CROWD | BoxFlag.GROUP_OF)
    if federated:
        absent, unclear = _federation(truth, number)
        images = [
            image | {"neg_category_ids": a, "not_exhaustive_category_ids": u}
            for image, a, u in zip(images, absent, unclear, strict=True)
        ]
        area = np.where(truth.has(BoxFlag.IGNORE), np.inf, area)  # outside every area: matched, never counted
        crowd = np.zeros_like(crowd)
    published = hotcoco.COCO.from_arrays(
        images,
        [{"id": int(row) + 1, "name": str(row)} for row in range(len(classes))],
        truth.image + 1,
        number[truth.label],
        np.concatenate([truth.boxes[:, :2], truth.sizes], axis=1),
        area=area,
        iscrowd=crowd,
    )
    results = published.load_res(
        np.column_stack(
            [detected.image + 1, detected.boxes[:, :2], detected.sizes, detected.scores, number[detected.label]]
        ).astype(np.float64, copy=False)
    )
    engine = hotcoco.COCOeval(published, results, "bbox", lvis_style=federated)
    engine.evaluate()
    engine.accumulate()
    arrays = engine.eval
    assert arrays is not None  # accumulate() has made it
    return PrecisionRecall(
        classes=classes,
        limits=tuple(engine.params.max_dets),
        precision=np.asarray(arrays["precision"]),
        recall=np.asarray(arrays["recall"]),
        scores=np.asarray(arrays["scores"]),
    )


def class_order(truth: Truth) -> Ints:
    """Rows of the classes by published id: as numbers where all are, else as published."""
    ids = [c.source_id for c in truth.space.classes]
    if all(i.isdecimal() for i in ids):
        return np.array(sorted(range(len(ids)), key=lambda row: int(ids[row])), np.int64)
    return np.arange(len(ids))


def _federation(truth: Truth, number: Ints) -> tuple[list[list[int]], list[list[int]]]:
    """For each image the class numbers of which an unmatched detection is wrong although no box is there, and those
    of which none is."""
    images = len(truth.image_ids)
    image, label = truth.verified[:, 0], truth.verified[:, 1]
    if truth.exhaustive:
        image, label = (axis.ravel() for axis in np.indices((images, len(number))))
    unclear = truth.not_exhaustive
    return _lists(image, number[label], images), _lists(unclear[:, 0], number[unclear[:, 1]], images)


def _lists(image: Ints, values: Ints, images: int) -> list[list[int]]:
    """``values`` [n] by image [n]."""
    order = np.argsort(image, kind="stable")
    edges = np.searchsorted(image[order], np.arange(images + 1)).tolist()
    flat = values[order].tolist()
    return [flat[start:stop] for start, stop in pairwise(edges)]
