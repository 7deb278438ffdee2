"""Truth and detections from plain lists, for tests that make their own scenes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from xray_det.data.schema import BoxFlag
from xray_det.evaluation.columns import Detected, Truth
from xray_det.labels.space import Class, LabelSpace

Row = Sequence[Any]


def label_space(count: int) -> LabelSpace:
    return LabelSpace(name="made", classes=tuple(Class(name=f"class {c}", source_id=str(c + 1)) for c in range(count)))


def make_truth(
    rows: Sequence[Row],
    *,
    images: int,
    classes: int,
    verified: Sequence[tuple[int, int, int]] = (),
    exhaustive: bool = True,
    normalized: bool = False,
) -> Truth:
    """Rows are (image, label, [x1, y1, x2, y2], BoxFlag[, area])."""
    rows = sorted(rows, key=lambda row: row[0])
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2]
    area = [row[4] if len(row) > 4 else w * h for row, (w, h) in zip(rows, sizes, strict=True)]
    return Truth(
        space=label_space(classes),
        image_ids=tuple(str(i) for i in range(images)),
        paths=(None,) * images,
        image_sizes=np.full((images, 2), 100.0),
        image=np.array([row[0] for row in rows], np.int64),
        label=np.array([row[1] for row in rows], np.int32),
        boxes=boxes,
        sizes=sizes,
        area=np.array(area, np.float64),
        flags=np.array([int(row[3]) for row in rows], np.uint16),
        verified=np.array(verified, np.int64).reshape(-1, 3),
        exhaustive=exhaustive,
        normalized=normalized,
    )


def make_detected(rows: Sequence[Row]) -> Detected:
    """Rows are (image, label, [x1, y1, x2, y2], score)."""
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    return Detected(
        image=np.array([row[0] for row in rows], np.int64),
        label=np.array([row[1] for row in rows], np.int32),
        boxes=boxes,
        sizes=boxes[:, 2:] - boxes[:, :2],
        scores=np.array([row[3] for row in rows], np.float64),
    )


@pytest.fixture(scope="session")
def truth_of() -> Callable[..., Truth]:
    return make_truth


@pytest.fixture(scope="session")
def detected_of() -> Callable[..., Detected]:
    return make_detected


PLAIN = BoxFlag(0)
