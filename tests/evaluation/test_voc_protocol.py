"""The VOC protocol against published values and against the development kit's loop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation import voc
from xray_det.evaluation.columns import Detected, Truth

Make = Callable[..., Any]


def xywh(words: list[str]) -> list[float]:
    x, y, w, h = map(float, words)
    return [x, y, x + w, y + h]


@pytest.fixture(scope="module")
def toy(shared_data: Path, truth_of: Make, detected_of: Make) -> tuple[Truth, Detected]:
    """Seven images with 15 boxes and 24 detections of one class."""
    folder = shared_data / "metric_refs/voc_toy_7"
    names = sorted(p.name for p in (folder / "gts").iterdir())
    truth, found = [], []
    for image, name in enumerate(names):
        for line in (folder / "gts" / name).read_text().splitlines():
            truth.append((image, 0, xywh(line.split()[1:5]), BoxFlag(0)))
        for line in (folder / "dets" / name).read_text().splitlines():
            found.append((image, 0, xywh(line.split()[2:6]), float(line.split()[1])))
    return truth_of(truth, images=7, classes=1), detected_of(found)


@pytest.mark.parametrize("kind", ["11-point", "every-point"])
@pytest.mark.parametrize("iou", ["0.1", "0.3", "0.5", "0.75"])
def test_the_published_toy(toy: tuple[Truth, Detected], shared_data: Path, kind: str, iou: str) -> None:
    expected = json.loads((shared_data / "metric_refs/voc_toy_7/expected.json").read_text())["AP per IoU threshold"]
    result = voc.evaluate(*toy, iou=float(iou), use_eleven_points=kind == "11-point")
    assert result.metrics["mAP"] == pytest.approx(expected[kind][iou], abs=1e-10)  # cut, not rounded


def devkit(truth: Truth, detected: Detected, label: int, iou_at: float) -> float | None:
    """VOCevaldet of the development kit, line by line, with the every-point area."""
    mine = [n for n in range(len(truth.label)) if truth.label[n] == label]
    positives = sum(not truth.flags[n] & BoxFlag.DIFFICULT for n in mine)
    if not positives:
        return None
    order = sorted((n for n in range(len(detected)) if detected.label[n] == label), key=lambda n: -detected.scores[n])
    taken: set[int] = set()
    true, false = [], []
    for n in order:
        bb = detected.boxes[n]
        largest, at = -np.inf, -1
        for m in mine:
            if truth.image[m] != detected.image[n]:
                continue
            gt = truth.boxes[m]
            w = min(bb[2], gt[2]) - max(bb[0], gt[0]) + 1
            h = min(bb[3], gt[3]) - max(bb[1], gt[1]) + 1
            if w > 0 and h > 0:
                union = (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - w * h
                if w * h / union > largest:
                    largest, at = w * h / union, m
        if largest >= iou_at:
            difficult = bool(truth.flags[at] & BoxFlag.DIFFICULT)
            true.append(not difficult and at not in taken)
            false.append(not difficult and at in taken)
            taken.add(at)
        else:
            true.append(False)
            false.append(True)
    recall = np.cumsum(true) / positives
    with np.errstate(invalid="ignore"):
        precision = np.nan_to_num(np.cumsum(true) / (np.cumsum(true) + np.cumsum(false)))
    ap = 0.0
    for n in range(len(recall)):
        before = recall[n - 1] if n else 0.0
        ap += (recall[n] - before) * max(precision[n:])
    return ap


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Any], list[Any], float]:
    """Whole pixels on a small grid: equal overlaps, exact thresholds, boxes of one pixel, equal scores."""
    number = st.integers(0, 8)
    place = st.tuples(st.integers(0, 2), st.integers(0, 1))

    def box() -> list[int]:
        x, y = draw(number), draw(number)
        return [x, y, x + draw(st.integers(0, 5)), y + draw(st.integers(0, 5))]

    flags = st.sampled_from([BoxFlag(0), BoxFlag(0), BoxFlag.DIFFICULT])
    truth = [(*draw(place), box(), draw(flags)) for _ in range(draw(st.integers(0, 10)))]
    score = st.integers(0, 5).map(lambda n: n / 5)
    detected = [(*draw(place), box(), draw(score)) for _ in range(draw(st.integers(0, 14)))]
    return truth, detected, draw(st.sampled_from([0.3, 0.5, 0.75]))


@settings(max_examples=300, deadline=None)
@given(scene=scenes())
def test_equals_the_development_kits_loop(scene: Any, truth_of: Make, detected_of: Make) -> None:
    rows, found, iou = scene
    truth, detected = truth_of(rows, images=3, classes=2), detected_of(found)
    result = voc.evaluate(truth, detected, iou=iou)
    expected = [devkit(truth, detected, label, iou) for label in range(2)]
    assert [None if np.isnan(a) else a for a in result.ap] == pytest.approx(expected, abs=1e-12)


def test_regions_that_voc_does_not_know_are_difficult(truth_of: Make, detected_of: Make) -> None:
    box, other = [0, 0, 9, 9], [20, 20, 29, 29]
    found = detected_of([(0, 0, other, 0.9), (0, 0, box, 0.8)])
    for flag, ap in {BoxFlag(0): 1.0, BoxFlag.DIFFICULT: 1.0, BoxFlag.CROWD: 1.0, BoxFlag.OCCLUDED: 1.0}.items():
        assert voc.evaluate(truth_of([(0, 0, box, 0), (0, 0, other, flag)], images=1, classes=1), found).ap[0] == ap
    only_region = truth_of([(0, 0, box, BoxFlag.DIFFICULT)], images=1, classes=1)
    assert np.isnan(voc.evaluate(only_region, found).metrics["mAP"])


def test_a_pixel_more_lifts_an_overlap_over_the_threshold(truth_of: Make, detected_of: Make) -> None:
    """10 of 20 pixels are half; as continuous coordinates the two boxes share 9 of 19."""
    truth = truth_of([(0, 0, [0, 0, 19, 0], BoxFlag(0))], images=1, classes=1)
    assert voc.evaluate(truth, detected_of([(0, 0, [0, 0, 9, 0], 0.5)])).ap[0] == 1.0


def test_three_in_ten_does_not_reach_the_fourth_level(truth_of: Make, detected_of: Make) -> None:
    boxes = [[20 * k, 0, 20 * k + 9, 9] for k in range(10)]
    truth = truth_of([(0, 0, box, BoxFlag(0)) for box in boxes], images=1, classes=1)
    detected = detected_of([(0, 0, box, 0.5) for box in boxes[:3]])
    assert voc.evaluate(truth, detected, use_eleven_points=True).ap[0] == pytest.approx(3 / 11)


def test_bad_settings_and_fractions_are_refused(truth_of: Make, detected_of: Make) -> None:
    truth = truth_of([(0, 0, [0, 0, 0.5, 0.5], BoxFlag(0))], images=1, classes=1, normalized=True)
    with pytest.raises(InputError, match="fractions"):
        voc.evaluate(truth, detected_of([]))
    with pytest.raises(InputError, match=r"1\.2"):
        voc.evaluate(truth, detected_of([]), iou=1.2)
