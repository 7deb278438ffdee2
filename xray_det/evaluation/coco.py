"""COCO: twelve numbers over ten IoU thresholds, three sizes and three detection limits, as pycocotools prints them.

Readings where a truth is not COCO's own: a crowd is a box flagged CROWD or GROUP_OF; difficult and ignore boxes are
ordinary (pycocotools overwrites ``ignore``); a box's width is x2 - x1; its area is the published one, else
width x height. On boxes in fractions of the image every object counts as small. What is verified of an image or not
exhaustively boxed (Open Images, LVIS) has no part in it.
"""

from typing import Any, Final

import numpy as np

from xray_det.data.limits import Limits, usual
from xray_det.data.schema import BoxFlag
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.engine import AVERAGE_PRECISIONS, precision_recall
from xray_det.evaluation.result import Result

#: Metric -> what it is the mean of (engine.PrecisionRecall.mean). AR1 allows one detection an image and class.
METRICS: Final[dict[str, dict[str, Any]]] = {
    **AVERAGE_PRECISIONS,
    "AR1": {"kind": "AR", "limit": 1},
    "AR10": {"kind": "AR", "limit": 10},
    "AR100": {"kind": "AR"},
    "ARs": {"kind": "AR", "area": "small"},
    "ARm": {"kind": "AR", "area": "medium"},
    "ARl": {"kind": "AR", "area": "large"},
}


def needs(classes: int) -> Limits:
    """pycocotools counts 100 detections an image and class; whoever publishes on COCO keeps 100 an image. Those who
    train on Objects365's 365 classes keep 300 (as DINO), and ask for no score."""
    return usual(classes)


def evaluate(truth: Truth, detected: Detected) -> Result:
    """The COCO protocol for boxes.

    Returns:
        The twelve metrics (-1 where undefined, as pycocotools); AP over all thresholds a class; curves at IoU 0.5 on
        the 101 recall levels.
    """
    arrays = precision_recall(truth, detected, federated=False)
    ap, curves = arrays.by_class()
    return Result(
        protocol="coco",
        metrics={name: arrays.mean(**of) for name, of in METRICS.items()},
        space=truth.space,
        ap=ap,
        boxes=np.bincount(truth.label[~truth.has(BoxFlag.CROWD | BoxFlag.GROUP_OF)], minlength=len(ap)),
        curves=curves,
    )
