"""Places, their overlaps and what their objects carry, against loops over single boxes in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_loops import ANCESTORS, IMAGES, C, Images, ious, labels_at, table

from xray_det.data.objects import Places


@given(IMAGES, st.sampled_from(["0.5", "0.75", "0.9", "1"]), st.booleans())
def test_equal_loops_over_boxes(images: Images, least: str, undo: bool) -> None:
    expected = labels_at(images, undo)
    places = Places.of(table(images), np.arange(C, dtype=np.int32))
    if undo:
        places = places.most_specific(ANCESTORS)
    keys = [(int(i), tuple(map(int, box))) for i, box in zip(places.image, places.corners, strict=True)]
    assert keys == list(expected)
    labels = [set(map(int, places.label[a:b])) for a, b in zip(places.starts[:-1], places.starts[1:], strict=True)]
    assert labels == list(expected.values())

    a, b, iou = places.overlaps(float(least))
    pairs = {pair: value for pair, value in ious(keys).items() if value >= Fraction(least)}
    assert len(a) == len(pairs)
    assert dict(zip(zip(a.tolist(), b.tolist(), strict=True), iou.tolist(), strict=True)) == {
        pair: float(value) for pair, value in pairs.items()
    }

    triples: dict[tuple[int, int, int], float] = {}
    for place, own in enumerate(labels):
        for other, carried in enumerate(labels):
            value = 1 if other == place else pairs.get((min(place, other), max(place, other)))
            for i, j in ((i, j) for i in own for j in carried if i != j and value is not None):
                triples[place, i, j] = max(triples.get((place, i, j), 0), float(value))
    *found, best = places.carried((a, b, iou), C)
    assert list(zip(*(part.tolist() for part in found), best.tolist(), strict=True)) == [
        (*key, triples[key]) for key in sorted(triples)
    ]


def test_labels_are_mapped_and_count_once_a_place() -> None:
    places = Places.of(table([[((0, 0, 9, 9), 0, [0, 2]), ((0, 0, 9, 9), 8, [1])]]), np.array([3, 1, 3], np.int32))
    assert (places.label.tolist(), places.place.tolist()) == ([1, 3], [0, 0])


@pytest.mark.parametrize("least", [0.5, 0.9, 1.0])
def test_crowds_of_like_boxes_miss_no_pair(least: float) -> None:
    """Hundreds of boxes in an image, far from the origin, many of one left edge: against all pairs in numpy."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 4, (300, 2)) + 4000 + rng.uniform(0, 1, (300, 2)) * (rng.random((300, 1)) < 0.5)
    boxes = np.concatenate([corner, corner + rng.uniform(5, 9, (300, 2))], axis=1).astype(np.float32)
    boxes = np.concatenate([boxes, np.nextafter(boxes[:100], np.float32(9000))])
    places = Places.of(table([[(box, 0, [0]) for box in boxes.tolist()]]), np.zeros(1, np.int32))
    x1, y1, x2, y2 = places.corners.T[:, :, None]
    width, height = np.minimum(x2, x2.T) - np.maximum(x1, x1.T), np.minimum(y2, y2.T) - np.maximum(y1, y1.T)
    inter = width.clip(0) * height.clip(0)
    area = (x2 - x1) * (y2 - y1)
    iou = inter / (area + area.T - inter)
    a, b, found = places.overlaps(least)
    order = np.lexsort([b, a])
    expected = np.nonzero(np.triu(iou >= least, 1))
    np.testing.assert_array_equal([a[order], b[order]], expected)
    np.testing.assert_allclose(found[order], iou[expected], rtol=1e-15)
    assert least == 1 or len(a) > 100


def test_boxes_without_area_overlap_nothing() -> None:
    images = [[((1, 1, 1, 5), 0, [0]), ((1, 2, 1, 5), 0, [1]), ((0, 0, 9, 9), 0, [2])]]
    assert len(Places.of(table(images), np.arange(3)).overlaps(0.1)[0]) == 0
