"""PASCAL VOC: mean average precision at one IoU threshold, as the development kit computes it.

Corners are pixels that belong to the box: a width is xmax - xmin + 1, also where a format gave the width w (then
xmax = x + w and the protocol adds its 1: the public evaluators do the same). A detection is judged by the truth box of
its class and image that it overlaps most, the first of equals, taken or not; difficult boxes count neither as found
nor as missed, and what lies on them is no mistake. Crowd, group-of and ignore boxes, which VOC does not know, are
treated as difficult. Equal scores keep the order of the detection file.
"""

import numpy as np

from xray_det.data.limits import Limits, usual
from xray_det.data.overlap import intersection_over_union
from xray_det.data.schema import REGION
from xray_det.errors import InputError
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.curves import area, eleven_point
from xray_det.evaluation.matching import best_overlap, blocks, first_claims
from xray_det.evaluation.result import Result, mean
from xray_det.evaluation.verdicts import Verdict, Verdicts
from xray_det.labels.space import LabelSpace


def needs(classes: int) -> Limits:
    """The development kit counts all detections; whoever publishes on VOC's 20 classes keeps what COCO does."""
    return usual(classes)


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
    verdicts = judge(truth, detected, iou=iou)
    return result(verdicts, truth.space, use_eleven_points=use_eleven_points)


def judge(truth: Truth, detected: Detected, *, iou: float = 0.5) -> Verdicts:
    """What each detection is: an image's own matter, so the images may be those of any part of a dataset.

    Args:
        truth: as for ``evaluate``.
        detected: as for ``evaluate``.
        iou: as for ``evaluate``.

    Raises:
        InputError: as ``evaluate``.
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
    verdict = np.full(len(detected), Verdict.MISS, np.uint8)
    for annotated, some, rows in blocks(truth, detected):
        best, which = best_overlap(
            annotated.boxes,
            some.boxes,
            annotated.image * classes + annotated.label,
            some.image * classes + some.label,
            len(annotated.image_ids) * classes,
            lambda first, second: intersection_over_union(first, second, pixel=1.0),
        )
        near = best >= iou
        excused = np.zeros(len(some), bool)
        excused[near] = annotated.has(REGION)[which[near]]
        verdict[rows[excused]] = Verdict.IGNORED
        verdict[rows[first_claims(which, some.scores, near & ~excused)]] = Verdict.HIT
    boxes = np.bincount(truth.label[~truth.has(REGION)], minlength=classes)
    return Verdicts.of(detected, verdict, boxes=boxes, groups=np.zeros(classes, np.int64))


def result(verdicts: Verdicts, space: LabelSpace, *, use_eleven_points: bool = False) -> Result:
    """The protocol's numbers from the verdicts on all images.

    Args:
        verdicts: of ``judge``, joined.
        space: the classes.
        use_eleven_points: as for ``evaluate``.
    """
    ap, curves = verdicts.by_class(average=eleven_point if use_eleven_points else area)
    return Result(protocol="voc", metrics={"mAP": mean(ap)}, space=space, ap=ap, curves=curves, boxes=verdicts.boxes)
