"""The Open Images protocol against TensorFlow's published numbers and against loops written from its text."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation import open_images, published
from xray_det.evaluation.columns import Detected, Truth

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "metric_refs/oid_unit_cases.json").read_text())


def scene(case: dict[str, Any], truth_of: Make, detected_of: Make) -> tuple[Truth, Detected]:
    """A unit case; its boxes are (y1, x1, y2, x2), its classes count from 1."""
    ids = sorted(case["ground_truth"])
    rows = []
    for image, of in enumerate(ids):
        entry = case["ground_truth"][of]
        for n, (box, label) in enumerate(zip(entry["boxes"], entry["classes"], strict=True)):
            flags = BoxFlag.GROUP_OF if entry.get("is_group_of", [False] * 9)[n] else BoxFlag(0)
            flags |= BoxFlag.DIFFICULT if entry.get("is_difficult", [False] * 9)[n] else BoxFlag(0)
            rows.append((image, label - 1, [box[1], box[0], box[3], box[2]], flags))
    found = [
        (ids.index(of), label - 1, [box[1], box[0], box[3], box[2]], score)
        for of, entry in case["detections"].items()
        for box, label, score in zip(entry["boxes"], entry["classes"], entry["scores"], strict=True)
    ]
    return truth_of(rows, images=len(ids), classes=len(case["categories"])), detected_of(found)


def test_the_published_unit_cases(cases: dict[str, Any], truth_of: Make, detected_of: Make) -> None:
    assert len(cases["detection_cases"]) == 5
    for case in cases["detection_cases"]:
        truth, detected = scene(case, truth_of, detected_of)
        result = open_images.evaluate(truth, detected, group_of_weight=0.0)
        ap = dict(zip(case["categories"].values(), result.ap, strict=True))
        assert ap == pytest.approx(case["expected"]["AP"], abs=1e-8), case["name"]
        key = "pooled_AP" if case["name"].startswith("weighted") else "mAP"
        assert result.metrics[key] == pytest.approx(case["expected"]["mAP"], abs=1e-8), case["name"]


def test_the_published_curve(cases: dict[str, Any], truth_of: Make, detected_of: Make) -> None:
    case = cases["detection_cases"][-1]
    truth, detected = scene(case, truth_of, detected_of)
    curves = open_images.evaluate(truth, detected, group_of_weight=0.0).curves
    for row in range(3):
        assert curves[row].scores.tolist() == case["expected"]["scores_per_class"][row]
        assert curves[row].precision.tolist() == case["expected"]["precision"][row]
        assert curves[row].recall.tolist() == pytest.approx(case["expected"]["recall"][row])


# The published hierarchy: a > b, a > c > d, c > e, c > f > d, a > f. Rows b, c, d, e, f; the root is no class.
ANCESTORS = np.zeros((5, 5), bool)
ANCESTORS[[2, 2, 3, 4], [1, 4, 1, 1]] = True


def test_boxes_are_expanded_to_every_ancestor(cases: dict[str, Any], truth_of: Make) -> None:
    rows = [row.split(",") for row in cases["hierarchical_expansion"]["bbox_rows"]]
    truth = truth_of(
        [(0, "bcdef".index(r[2]), [float(r[k]) for k in (4, 6, 5, 7)], BoxFlag(0)) for r in rows], images=1, classes=5
    )
    expanded = open_images.expand(truth, ANCESTORS)
    expected = [row.split(",") for row in cases["hierarchical_expansion"]["expected_bbox_rows_any_order"]]
    found = [("bcdef"[label], *box) for label, box in zip(expanded.label, expanded.boxes[:, [0, 2, 1, 3]], strict=True)]
    assert sorted(found) == sorted((r[2], *map(float, r[4:8])) for r in expected)
    again = open_images.expand(expanded, ANCESTORS)
    assert len(again.label) == len(expanded.label)  # truth that was published expanded stays as it is


def test_truth_published_expanded_stays_as_it_is(shared_data: Path) -> None:
    folder = shared_data / "open_images"
    truth, source = published.read_truth([folder / "challenge_sample/annotations-bbox_expanded.csv"])
    assert (source.format, len(truth.label)) == ("open_images", 7369)
    hierarchy = published.read_hierarchy(folder / "challenge-2019-label500-hierarchy.json")
    truth, ancestors = published.add_hierarchy(truth, hierarchy)
    assert len(open_images.expand(truth, ancestors).label) == 7369
    # of the published boxes take one label a box that has no other below it: expanded, all come back
    below = np.array([[*truth.image[[n]], *truth.boxes[n]] for n in range(len(truth.label))])
    _, place = np.unique(below, axis=0, return_inverse=True)
    keys = set(zip(place.tolist(), truth.label.tolist(), strict=True))
    leaf = [
        n
        for n in range(len(truth.label))
        if not any((place[n], c) in keys for c in np.flatnonzero(ancestors[:, truth.label[n]]))
    ]
    bare = replace(
        truth, **{name: getattr(truth, name)[leaf] for name in ("image", "label", "boxes", "sizes", "area", "flags")}
    )
    assert len(bare.label) < 6000
    back = open_images.expand(bare, ancestors)
    found = {
        (i, c, *box) for i, c, box in zip(back.image.tolist(), back.label.tolist(), back.boxes.tolist(), strict=True)
    }
    wanted = {
        (i, c, *box) for i, c, box in zip(truth.image.tolist(), truth.label.tolist(), truth.boxes.tolist(), strict=True)
    }
    assert found == wanted


def test_image_labels_spread_up_when_present_and_down_when_absent(cases: dict[str, Any], truth_of: Make) -> None:
    def triples(rows: list[str]) -> list[tuple[int, int, int]]:
        split = [row.split(",") for row in rows]
        return sorted((["123", "124"].index(r[0]), "bcdef".index(r[2]), int(r[3])) for r in split)

    case = cases["hierarchical_expansion"]
    truth = truth_of([], images=2, classes=5, verified=triples(case["label_rows"]))
    expanded = open_images.expand(truth, ANCESTORS)
    assert sorted(map(tuple, expanded.verified.tolist())) == triples(case["expected_label_rows_any_order"])


def test_each_label_of_a_box_is_expanded_by_itself(truth_of: Make) -> None:
    """As the published expanded files show it: Person stands twice where Girl and Woman share a box."""
    box = [0.1, 0.1, 0.5, 0.5]
    truth = truth_of(
        [(0, 2, box, BoxFlag(0)), (0, 3, box, BoxFlag(0)), (1, 3, box, BoxFlag.GROUP_OF)], images=2, classes=5
    )
    expanded = open_images.expand(truth, ANCESTORS)
    assert [(i, int(label)) for i, label in zip(expanded.image, expanded.label, strict=True)] == [
        (0, 2), (0, 1), (0, 4), (0, 3), (0, 1), (1, 3), (1, 1)
    ]  # fmt: skip
    assert expanded.has(BoxFlag.GROUP_OF).tolist() == [False] * 5 + [True] * 2


def oracle(
    truth: Truth, detected: Detected, *, weight: float, iou_at: float = 0.5
) -> tuple[list[float | None], float | None]:
    """The evaluator's text, one box at a time. Ties of score keep the order of the detections."""

    def shared(a: Any, b: Any) -> float:
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        return max(w, 0.0) * max(h, 0.0)

    def size(a: Any) -> float:
        return (a[2] - a[0]) * (a[3] - a[1])

    per_class: list[float | None] = []
    for label in range(len(truth.space)):
        entries: list[tuple[float, float]] = []
        positives = 0.0
        for image in range(len(truth.image_ids)):
            mine = [
                (truth.boxes[n], bool(truth.flags[n] & BoxFlag.GROUP_OF), bool(truth.flags[n] & BoxFlag.DIFFICULT))
                for n in range(len(truth.label))
                if truth.image[n] == image and truth.label[n] == label
            ]
            singles = [(box, difficult) for box, group, difficult in mine if not group]
            groups = [box for box, group, _ in mine if group]
            positives += sum(not difficult for _, difficult in singles) + weight * len(groups)
            is_verified = (
                truth.exhaustive or bool(mine) or any(i == image and c == label for i, c, _ in truth.verified.tolist())
            )
            if not is_verified:
                continue
            candidates = [
                (detected.boxes[n], detected.scores[n])
                for n in range(len(detected))
                if detected.image[n] == image
                and detected.label[n] == label
                and detected.boxes[n][0] < detected.boxes[n][2]
                and detected.boxes[n][1] < detected.boxes[n][3]
            ]
            taken: set[int] = set()
            best_of_group = [0.0] * len(groups)
            for box, score in sorted(candidates, key=lambda c: -c[1]):
                overlaps = [shared(box, s) / (size(box) + size(s) - shared(box, s)) for s, _ in singles]
                at = max(range(len(overlaps)), key=lambda k: (overlaps[k], -k)) if overlaps else -1
                if at >= 0 and overlaps[at] >= iou_at:
                    if singles[at][1]:
                        continue
                    if at not in taken:
                        taken.add(at)
                        entries.append((score, 1.0))
                        continue
                inside = [shared(box, g) / size(box) for g in groups]
                at = max(range(len(inside)), key=lambda k: (inside[k], -k)) if inside else -1
                if at >= 0 and inside[at] >= iou_at:
                    best_of_group[at] = max(best_of_group[at], score)
                    continue
                entries.append((score, 0.0))
            if weight > 0:
                entries += [(score, weight) for score in best_of_group if score > 0]
        if positives == 0:
            per_class.append(None)
            continue
        points = []
        found = wrong = 0.0
        for _, hit in sorted(entries, key=lambda e: -e[0]):
            found += hit
            wrong += hit <= 0
            points.append((found / positives, found / (found + wrong)))
        ap = 0.0
        before = 0.0
        for recall, same in groupby(points, key=lambda p: p[0]):
            list(same)
            ap += (recall - before) * max(p for r, p in points if r >= recall)
            before = recall
        per_class.append(ap)
    defined = [a for a in per_class if a is not None]
    return per_class, sum(defined) / len(defined) if defined else None


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Any], list[Any], list[tuple[int, int, int]], bool, float]:
    """Boxes on a coarse grid, so that equal overlaps, exact thresholds and boxes without area occur; distinct scores:
    which of two equal ones comes first is no part of the protocol."""
    corner = st.integers(0, 6)
    flags = st.sampled_from([BoxFlag(0), BoxFlag(0), BoxFlag.GROUP_OF, BoxFlag.DIFFICULT])
    place = st.tuples(st.integers(0, 2), st.integers(0, 2))

    def box(draw: st.DrawFn) -> list[float]:
        x, y = draw(corner), draw(corner)
        return [x / 8, y / 8, (x + draw(st.integers(0, 4))) / 8, (y + draw(st.integers(0, 4))) / 8]

    truth = [(*draw(place), box(draw), draw(flags)) for _ in range(draw(st.integers(0, 12)))]
    count = draw(st.integers(0, 14))
    order = draw(st.permutations(range(count)))
    detected = [(*draw(place), box(draw), rank / 20) for rank in order]
    label = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))
    verified = draw(st.lists(label, max_size=4, unique_by=lambda triple: triple[:2]))
    return truth, detected, verified, draw(st.booleans()), draw(st.sampled_from([0.0, 1.0, 0.5]))


@settings(max_examples=400, deadline=None)
@given(scene=scenes())
def test_equals_loops_over_boxes(scene: Any, truth_of: Make, detected_of: Make) -> None:
    rows, found, verified, exhaustive, weight = scene
    truth = truth_of(rows, images=3, classes=3, verified=verified, exhaustive=exhaustive, normalized=True)
    detected = detected_of(found)
    expected, mean = oracle(truth, detected, weight=weight)
    result = open_images.evaluate(truth, detected, group_of_weight=weight)
    assert [None if np.isnan(a) else a for a in result.ap] == pytest.approx(expected, abs=1e-12)
    assert (None if np.isnan(result.metrics["mAP"]) else result.metrics["mAP"]) == pytest.approx(mean, abs=1e-12)


def test_detections_of_unverified_classes_are_ignored(truth_of: Make, detected_of: Make) -> None:
    box, far = [0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    rows = [(0, 0, box, BoxFlag(0))]
    found = [(1, 0, far, 0.9), (0, 0, box, 0.8)]
    ap = {}
    for name, verified in {
        "nothing": [],
        "absent": [(1, 0, 0)],
        "present": [(1, 0, 1)],
        "another": [(1, 1, 0)],
    }.items():
        truth = truth_of(rows, images=2, classes=2, verified=verified, exhaustive=False)
        ap[name] = open_images.evaluate(truth, detected_of(found)).ap[0]
    assert ap == {"nothing": 1.0, "absent": 0.5, "present": 0.5, "another": 1.0}


def test_a_group_counts_once_at_its_best_score(truth_of: Make, detected_of: Make) -> None:
    group = [(0, 0, [0.0, 0.0, 1.0, 1.0], BoxFlag.GROUP_OF), (0, 0, [2.0, 2.0, 3.0, 3.0], BoxFlag(0))]
    found = [(0, 0, [k / 10, 0.0, k / 10 + 0.1, 0.1], (3 + k) / 8) for k in range(5)]
    truth = truth_of(group, images=1, classes=1)
    curve = open_images.evaluate(truth, detected_of(found), group_of_weight=1.0).curves[0]
    assert curve.scores.tolist() == [7 / 8]
    assert (curve.recall.tolist(), curve.precision.tolist()) == ([0.5], [1.0])
    silent = open_images.evaluate(truth, detected_of(found), group_of_weight=0.0).curves[0]
    assert silent.scores.tolist() == []


@pytest.mark.parametrize(
    "setting", [{"iou": 0.0}, {"iou": 1.5}, {"group_of_weight": -1.0}, {"group_of_weight": np.nan}]
)
def test_impossible_settings_are_named(setting: dict[str, float], truth_of: Make, detected_of: Make) -> None:
    with pytest.raises(InputError, match=r"nan|-1\.0|0\.0|1\.5"):
        open_images.evaluate(truth_of([], images=1, classes=1), detected_of([]), **setting)


def test_truth_that_contradicts_itself_is_named(truth_of: Make, detected_of: Make) -> None:
    truth = truth_of([], images=2, classes=2, verified=[(1, 0, 1), (1, 1, 1), (1, 1, 0)], exhaustive=False)
    with pytest.raises(InputError, match="image '1': class 1 is verified both present and absent"):
        open_images.evaluate(truth, detected_of([]))
    cycle = np.array([[True, True], [True, True]])
    with pytest.raises(InputError, match=r"its own ancestor \(class 0, class 1\)"):
        open_images.evaluate(truth_of([], images=1, classes=2), detected_of([]), ancestors=cycle)


def test_truth_without_boxes_has_nothing_to_find(truth_of: Make, detected_of: Make) -> None:
    result = open_images.evaluate(truth_of([], images=1, classes=2), detected_of([(0, 0, [0, 0, 9, 9], 0.9)]))
    assert np.isnan([*result.metrics.values(), *result.ap]).all()
    assert (result.boxes.tolist(), dict(result.curves)) == ([0, 0], {})


def test_a_detection_does_not_turn_to_its_second_choice(truth_of: Make, detected_of: Make) -> None:
    """Unlike COCO's: what lies most on a box that is taken is a miss, though another one is near enough."""
    truth = truth_of([(0, 0, [0, 0, 10, 10], 0), (0, 0, [0, 0, 10, 9], 0)], images=1, classes=1)
    found = detected_of([(0, 0, [0, 0, 10, 10], 0.9), (0, 0, [0, 0, 10, 9.8], 0.8)])
    assert open_images.evaluate(truth, found).curves[0].recall.tolist() == [0.5, 0.5]
