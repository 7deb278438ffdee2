"""COCO: twelve numbers over ten IoU thresholds, three sizes and three detection limits, as pycocotools prints them.

The engine is hotcoco (compiled, a hundred times faster and a tenth of the memory), behind ``precision_recall`` alone.
Its arrays equal pycocotools' to the last bit, which the tests check with crowds, every area limit, ties and overflowing
images; the twelve means are taken here, in pycocotools' order of summation.

Readings where a truth is not COCO's own: a crowd is a box flagged CROWD or GROUP_OF; difficult and ignore boxes are
ordinary (pycocotools overwrites ``ignore``); a box's width is x2 - x1; its area is the published one, else
width x height. On boxes in fractions of the image every object counts as small.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xray_det.data.schema import BoxFlag
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.curves import Curve
from xray_det.evaluation.result import Result

Floats = NDArray[np.float64]

#: Metric name -> (average precision?, IoU threshold or None for all ten, area, detections an image and class).
METRICS = {
    "AP": (True, None, "all", 100),
    "AP50": (True, 0.5, "all", 100),
    "AP75": (True, 0.75, "all", 100),
    "APs": (True, None, "small", 100),
    "APm": (True, None, "medium", 100),
    "APl": (True, None, "large", 100),
    "AR1": (False, None, "all", 1),
    "AR10": (False, None, "all", 10),
    "AR100": (False, None, "all", 100),
    "ARs": (False, None, "small", 100),
    "ARm": (False, None, "medium", 100),
    "ARl": (False, None, "large", 100),
}
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
AREAS = ("all", "small", "medium", "large")
LIMITS = (1, 10, 100)


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """pycocotools' ``eval`` arrays; -1 where a class has nothing to find.

    Attributes:
        classes: int64 [C], the row of the label space that stands at each place of the class axis.
        precision: float64 [10 thresholds, 101 recall levels, C, 4 areas, 3 limits].
        recall: float64 [10, C, 4, 3].
        scores: float64, of the same shape as ``precision``.
    """

    classes: NDArray[np.int64]
    precision: Floats
    recall: Floats
    scores: Floats


def evaluate(truth: Truth, detected: Detected) -> Result:
    """The COCO protocol for boxes.

    Returns:
        The twelve metrics (-1 where undefined, as pycocotools); AP over all thresholds a class; curves at IoU 0.5 on
        the 101 recall levels.
    """
    arrays = precision_recall(truth, detected)
    every = arrays.precision[:, :, :, AREAS.index("all"), LIMITS.index(100)]
    scores = arrays.scores[0, :, :, AREAS.index("all"), LIMITS.index(100)]
    defined = np.flatnonzero(every[0, 0] > -1)
    ap = np.full(len(truth.space), np.nan)
    ap[arrays.classes[defined]] = every[:, :, defined].mean(axis=(0, 1))
    return Result(
        protocol="coco",
        metrics={name: summary(arrays, *of) for name, of in METRICS.items()},
        space=truth.space,
        ap=ap,
        curves={
            int(arrays.classes[k]): Curve(recall=RECALL_LEVELS, precision=every[0, :, k], scores=scores[:, k])
            for k in defined
        },
    )


def summary(arrays: PrecisionRecall, average_precision: bool, iou: float | None, area: str, limit: int) -> float:
    """One of the twelve means, over what is defined; -1 when nothing is."""
    values = arrays.precision if average_precision else arrays.recall
    if iou is not None:
        values = values[np.isclose(IOU_THRESHOLDS, iou)]
    values = values[..., AREAS.index(area), LIMITS.index(limit)]
    values = values[values > -1]
    return float(np.mean(values)) if len(values) else -1.0


def precision_recall(truth: Truth, detected: Detected) -> PrecisionRecall:
    """Match and accumulate: the only function that knows the engine.

    Images are numbered in ``truth.image_ids``' order and classes by ``class_order``, so that ties of score between
    images and sums over classes come in pycocotools' order.
    """
    import hotcoco

    classes = class_order(truth)
    number = np.empty(len(classes), np.int64)
    number[classes] = np.arange(1, len(classes) + 1)
    images = [{"id": row + 1, "width": 1, "height": 1} for row in range(len(truth.image_ids))]
    categories = [{"id": int(row) + 1, "name": str(row)} for row in range(len(classes))]
    published = hotcoco.COCO.from_arrays(
        images,
        categories,
        truth.image + 1,
        number[truth.label],
        np.concatenate([truth.boxes[:, :2], truth.sizes], axis=1),
        area=truth.area,
        iscrowd=truth.has(BoxFlag.CROWD | BoxFlag.GROUP_OF),
    )
    results = published.load_res(
        np.column_stack(
            [detected.image + 1, detected.boxes[:, :2], detected.sizes, detected.scores, number[detected.label]]
        ).astype(np.float64)
    )
    engine = hotcoco.COCOeval(published, results, "bbox")
    engine.evaluate()
    engine.accumulate()
    arrays = engine.eval
    assert arrays is not None  # accumulate() has made it
    return PrecisionRecall(
        classes=classes,
        precision=np.asarray(arrays["precision"]),
        recall=np.asarray(arrays["recall"]),
        scores=np.asarray(arrays["scores"]),
    )


def class_order(truth: Truth) -> NDArray[np.int64]:
    """Rows of the classes by published id: as numbers where all are, else as published."""
    ids = [c.source_id for c in truth.space.classes]
    if all(i.isdecimal() for i in ids):
        return np.array(sorted(range(len(ids)), key=lambda row: int(ids[row])), np.int64)
    return np.arange(len(ids))
