"""PASCAL VOC: mean average precision at one IoU threshold, as the development kit computes it.

Corners are pixels that belong to the box: a width is xmax - xmin + 1, also where a format gave the width w (then
xmax = x + w and the protocol adds its 1: the public evaluators do the same). A detection is judged by the truth box of
its class and image that it overlaps most, the first of equals, taken or not; difficult boxes count neither as found
nor as missed, and what lies on them is no mistake. Crowd, group-of and ignore boxes, which VOC does not know, are
treated as difficult. Equal scores keep the order of the detection file.
"""

import numpy as np

from xray_det.data.schema import REGION
from xray_det.errors import InputError
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.curves import Curve, area, eleven_point, trace
from xray_det.evaluation.matching import best_overlap, first_claims, intersection_over_union
from xray_det.evaluation.result import Result, mean


def evaluate(truth: Truth, detected: Detected, *, iou: float = 0.5, use_eleven_points: bool = False) -> Result:
    """The VOC protocol.

    Args:
        truth: boxes in pixels.
        detected: boxes in pixels.
        iou: the overlap from which a detection finds a box, in (0, 1].
        use_eleven_points: VOC 2007's average precision instead of the every-point one.

    Returns:
        Metric ``mAP``, the mean over classes with at least one box that is not difficult.

    Raises:
        InputError: a threshold outside (0, 1], or boxes in fractions of the image.
    """
    if not 0 < iou <= 1:
        raise InputError("--iou", f"{iou} is not in (0, 1]", "Give an overlap such as 0.5")
    if truth.normalized:
        raise InputError(
            truth.space.name,
            "its boxes are fractions of the image and VOC counts pixels",
            "Use the open_images or the coco protocol, or truth in pixels",
        )
    classes = len(truth.space)
    order = np.lexsort((-detected.scores, detected.label))
    detected = detected.take(order)
    best, which = best_overlap(
        truth.boxes,
        detected.boxes,
        truth.image * classes + truth.label,
        detected.image * classes + detected.label,
        lambda first, second: intersection_over_union(first, second, pixel=1.0),
    )
    ignored = truth.has(REGION)
    near = best >= iou
    excused = np.zeros(len(detected), bool)
    excused[near] = ignored[which[near]]
    hits = first_claims(which, np.arange(len(detected)), near & ~excused)
    positives = np.bincount(truth.label[~ignored], minlength=classes)

    counted = ~excused
    label, scores, found = detected.label[counted], detected.scores[counted], hits[counted].astype(np.float64)
    offsets = np.searchsorted(label, np.arange(classes + 1))
    curves: dict[int, Curve] = {}
    ap = np.full(classes, np.nan)
    for row in np.flatnonzero(positives):
        span = slice(offsets[row], offsets[row + 1])
        curves[int(row)] = trace(found[span], scores[span], float(positives[row]))
        ap[row] = eleven_point(curves[int(row)]) if use_eleven_points else area(curves[int(row)])
    return Result(protocol="voc", metrics={"mAP": mean(ap)}, space=truth.space, ap=ap, curves=curves)
