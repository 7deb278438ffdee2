"""Truth and detections from plain lists, for tests that make their own scenes; and what the reference tools say."""

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from xray_det.data.schema import BoxFlag
from xray_det.evaluation.columns import Detected, Truth
from xray_det.labels.space import Class, LabelSpace

Row = Sequence[Any]


def label_space(count: int) -> LabelSpace:
    return LabelSpace(
        name="made",
        classes=tuple(Class(name=f"class {c}", source_id=str(c + 1), frequency="rcf"[c % 3]) for c in range(count)),
    )


def make_truth(
    rows: Sequence[Row],
    *,
    images: int,
    classes: int,
    verified: Sequence[tuple[int, int, int]] = (),
    not_exhaustive: Sequence[tuple[int, int]] = (),
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
        verified=np.array(sorted(verified), np.int64).reshape(-1, 3),
        not_exhaustive=np.array(not_exhaustive, np.int64).reshape(-1, 2),
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


def reference(truth: dict[str, Any], detections: list[dict[str, Any]]) -> COCOeval:
    """What pycocotools says; it writes into what it is given, so it gets a copy."""
    with contextlib.redirect_stdout(io.StringIO()):
        published = COCO()
        published.dataset = json.loads(json.dumps(truth))
        published.createIndex()
        evaluation = COCOeval(published, published.loadRes(json.loads(json.dumps(detections))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def documents(truth: Truth, detected: Detected) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same scene as COCO JSON."""
    xywh = np.concatenate([truth.boxes[:, :2], truth.sizes], axis=1).tolist()
    annotations = [
        {
            "id": n + 1,
            "image_id": int(truth.image[n]),
            "category_id": int(truth.label[n]) + 1,
            "bbox": xywh[n],
            "area": float(truth.area[n]),
            "iscrowd": int(truth.flags[n]) & int(BoxFlag.CROWD),
        }
        for n in range(len(truth.label))
    ]
    found = [
        {"image_id": int(i), "category_id": int(c) + 1, "bbox": [*b[:2], *s], "score": float(v)}
        for i, c, b, s, v in zip(
            detected.image,
            detected.label,
            detected.boxes.tolist(),
            detected.sizes.tolist(),
            detected.scores,
            strict=True,
        )
    ]
    images = [{"id": row, "width": 640, "height": 480} for row in range(len(truth.image_ids))]
    categories = [{"id": row + 1, "name": name} for row, name in enumerate(truth.space.names)]
    return {"images": images, "annotations": annotations, "categories": categories}, found


def made_scene(seed: int) -> tuple[Truth, Detected]:
    """Images with crowds, areas on and around the limits of 32 x 32 and 96 x 96 (published and computed), equal
    scores, equal overlaps, boxes without area, and one image with more than 100 detections of a class."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    grid = seed % 2 == 0
    for image in range(6):
        for _ in range(rng.integers(0, 10)):
            x, y = rng.integers(0, 30, 2) if grid else rng.uniform(0, 400, 2).round(2)
            w, h = rng.choice([0, 8, 12, 31, 32, 33, 95, 96, 97, 200], 2) + (0 if grid else rng.choice([0, 0.01], 2))
            area = rng.choice([w * h, w * h * 0.6, 1024.0, 9216.0, 1023.9, 9216.1])
            flag = BoxFlag.CROWD if rng.random() < 0.2 else BoxFlag(0)
            truth.append((image, int(rng.integers(0, 3)), [x, y, x + w, y + h], flag, float(area)))
    for image, label, box, *_ in truth:
        for _ in range(rng.integers(0, 4)):
            near = np.array(box, np.float64) + (rng.integers(-3, 4, 4) if grid else rng.normal(0, 5, 4).round(1))
            near[2:] = np.maximum(near[:2], near[2:])
            found.append((image, label, near, round(float(rng.random()), 1)))
    for _ in range(130 if seed % 5 == 0 else 0):
        corner = rng.uniform(0, 200, 2)
        found.append((0, 0, [*corner, *(corner + rng.uniform(1, 90, 2))], round(float(rng.random()), 2)))
    order = rng.permutation(len(found))
    return make_truth(truth, images=6, classes=3), make_detected([found[n] for n in order])


@pytest.fixture(scope="session")
def truth_of() -> Callable[..., Truth]:
    return make_truth


@pytest.fixture(scope="session")
def detected_of() -> Callable[..., Detected]:
    return make_detected


@pytest.fixture(scope="session")
def crowded_scene() -> Callable[[int], tuple[Truth, Detected]]:
    return made_scene


@pytest.fixture(scope="session")
def coco_documents() -> Callable[[Truth, Detected], tuple[dict[str, Any], list[dict[str, Any]]]]:
    return documents


@pytest.fixture(scope="session")
def pycocotools_says() -> Callable[[Truth, Detected], COCOeval]:
    return lambda truth, detected: reference(*documents(truth, detected))
