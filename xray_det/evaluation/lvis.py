"""LVIS: average precision where each image is annotated for some classes only, as lvis-api computes it.

COCO's matching, thresholds, recall levels and sizes (coco.py), with these rules (Gupta et al., arXiv 1908.03195,
section 4, and lvis-api 0.5.3):

1. The 300 best-scored detections of an image count, of all classes together.
2. A detection counts only where its class is verified: the image has a box of it, or lists it as absent.
3. Where a class is not exhaustively boxed, a detection that meets no box is ignored, neither right nor wrong.
4. A box flagged IGNORE is to be found by nobody, and what lies on it is ignored; there are no crowds.

APr, APc and APf are the means over the rare, common and frequent classes of the published table.
"""

from typing import Any, Final

import numpy as np

from xray_det.data.formats.lvis import FREQUENCIES
from xray_det.data.limits import MANY_CLASSES, Limits
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.engine import AVERAGE_PRECISIONS, precision_recall
from xray_det.evaluation.result import Result

_AVERAGE_RECALLS: Final[dict[str, dict[str, Any]]] = {
    "AR@300": {"kind": "AR"},
    "ARs@300": {"kind": "AR", "area": "small"},
    "ARm@300": {"kind": "AR", "area": "medium"},
    "ARl@300": {"kind": "AR", "area": "large"},
}


def needs(classes: int) -> Limits:
    """Rule 1's 300 detections, however few the classes."""
    return MANY_CLASSES


def evaluate(truth: Truth, detected: Detected) -> Result:
    """The LVIS protocol for boxes.

    Args:
        truth: where it is ``exhaustive`` every class of every image is verified.
        detected: boxes in the truth's coordinates.

    Returns:
        lvis-api's thirteen metrics (-1 where undefined, as there); AP over all thresholds a class; curves at IoU 0.5
        on the 101 recall levels.

    Raises:
        InputError: a class without a frequency group.
    """
    without = [c.name for c in truth.space.classes if c.frequency is None]
    if without:
        raise InputError(
            f"{truth.space.name}: categories",
            f"{len(without)} of {len(truth.space)} classes have no frequency ({', '.join(without[:3])})",
            "Give each category of the truth its frequency, r, c or f, or use another protocol",
        )
    arrays = precision_recall(truth, detected, federated=True)
    frequency = np.array([c.frequency for c in truth.space.classes])[arrays.classes]
    metrics = {name: arrays.mean(**of) for name, of in AVERAGE_PRECISIONS.items()}
    metrics |= {f"AP{f}": arrays.mean("AP", classes=np.flatnonzero(frequency == f)) for f in FREQUENCIES}
    metrics |= {name: arrays.mean(**of) for name, of in _AVERAGE_RECALLS.items()}
    ap, curves = arrays.by_class()
    boxes = np.bincount(truth.label[~truth.has(BoxFlag.IGNORE)], minlength=len(ap))
    return Result(protocol="lvis", metrics=metrics, space=truth.space, ap=ap, boxes=boxes, curves=curves)
