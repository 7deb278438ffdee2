"""The COCO protocol against pycocotools, array by array and to the last bit."""

import contextlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from xray_det.data.schema import BoxFlag
from xray_det.evaluation import coco
from xray_det.evaluation.columns import Detected, Truth

Make = Callable[..., Any]


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


def made_scene(seed: int, truth_of: Make, detected_of: Make) -> tuple[Truth, Detected]:
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
    return truth_of(truth, images=6, classes=3), detected_of([found[n] for n in order])


def test_equals_pycocotools_on_made_scenes(truth_of: Make, detected_of: Make) -> None:
    seen = {"crowds": 0, "overflow": 0, "ranges": np.zeros(4, int)}
    for seed in range(60):
        truth, detected = made_scene(seed, truth_of, detected_of)
        if not len(detected) or not len(truth.label):
            continue
        expected = reference(*documents(truth, detected))
        arrays = coco.precision_recall(truth, detected)
        np.testing.assert_array_equal(arrays.precision, expected.eval["precision"])
        np.testing.assert_array_equal(arrays.recall, expected.eval["recall"])
        np.testing.assert_array_equal(arrays.scores, expected.eval["scores"])
        assert list(coco.evaluate(truth, detected).metrics.values()) == list(expected.stats)
        seen["crowds"] += int(truth.has(BoxFlag.CROWD).sum())
        seen["overflow"] += int((np.bincount(detected.image * 3 + detected.label) > 100).sum())
        seen["ranges"] += (arrays.recall[0, :, :, 2] > -1).any(axis=0)
    assert seen["crowds"] > 100
    assert seen["overflow"] > 5
    assert (seen["ranges"] > 20).all()  # every area range had something to find


def test_no_detection_and_no_truth(truth_of: Make, detected_of: Make) -> None:
    truth = truth_of([(0, 0, [0, 0, 50, 50], BoxFlag(0))], images=1, classes=2)
    silent = coco.evaluate(truth, detected_of([]))
    assert silent.metrics["AP"] == 0.0
    assert silent.metrics["APs"] == -1.0
    np.testing.assert_array_equal(silent.ap, [0.0, np.nan])
    empty = coco.evaluate(truth_of([], images=1, classes=1), detected_of([(0, 0, [0, 0, 9, 9], 0.5)]))
    assert set(empty.metrics.values()) == {-1.0}
    assert empty.curves == {}


def test_per_class_is_the_mean_over_thresholds(truth_of: Make, detected_of: Make) -> None:
    truth, detected = made_scene(1, truth_of, detected_of)
    expected = reference(*documents(truth, detected)).eval["precision"][:, :, :, 0, 2]
    result = coco.evaluate(truth, detected)
    for row in range(3):
        assert result.ap[row] == pytest.approx(expected[:, :, row].mean(), abs=1e-12)
        np.testing.assert_array_equal(result.curves[row].precision, expected[0, :, row])
    assert result.metrics["AP"] == pytest.approx(result.ap.mean(), abs=1e-12)


def test_group_of_is_a_crowd_and_difficult_is_ordinary(truth_of: Make, detected_of: Make) -> None:
    big, one = [0, 0, 100, 100], [200, 200, 300, 300]
    found = detected_of([(0, 0, [0, 0, 10, 10], 0.9), (0, 0, one, 0.8)])
    ap = {
        flag: coco.evaluate(truth_of([(0, 0, big, flag), (0, 0, one, 0)], images=1, classes=1), found).ap[0]
        for flag in (BoxFlag.CROWD, BoxFlag.GROUP_OF, BoxFlag.DIFFICULT, BoxFlag.IGNORE)
    }
    assert ap[BoxFlag.CROWD] == ap[BoxFlag.GROUP_OF] == pytest.approx(1.0)
    assert ap[BoxFlag.DIFFICULT] == ap[BoxFlag.IGNORE] < 0.5
