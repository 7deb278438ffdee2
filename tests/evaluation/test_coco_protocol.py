"""The COCO protocol against pycocotools, array by array and to the last bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xray_det.data.schema import BoxFlag
from xray_det.evaluation import coco
from xray_det.evaluation.engine import precision_recall

Make = Callable[..., Any]


def test_equals_pycocotools_on_made_scenes(crowded_scene: Make, pycocotools_says: Make) -> None:
    seen = {"crowds": 0, "overflow": 0, "ranges": np.zeros(4, int)}
    for seed in range(60):
        truth, detected = crowded_scene(seed)
        if not len(detected) or not len(truth.label):
            continue
        expected = pycocotools_says(truth, detected)
        arrays = precision_recall(truth, detected, federated=False)
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


def test_per_class_is_the_mean_over_thresholds(crowded_scene: Make, pycocotools_says: Make) -> None:
    truth, detected = crowded_scene(1)
    expected = pycocotools_says(truth, detected).eval["precision"][:, :, :, 0, 2]
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
