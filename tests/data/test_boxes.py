"""Box checks over a batch against loops over one box at a time."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.boxes import examine_boxes, select_boxes
from xray_det.data.defect import Defect
from xray_det.data.schema import BoxFlag

CORNER = st.sampled_from([-1.0, 0.0, 2.0, 5.0, 8.0, 10.0, 12.0, float("nan"), float("inf")])
BOX = st.tuples(CORNER, CORNER, CORNER, CORNER)
IMAGES = st.lists(
    st.lists(st.tuples(BOX, st.sampled_from([0, 1, 4]), st.integers(0, 2)), max_size=7), min_size=1, max_size=5
)
WIDTH, HEIGHT = 10, 8


def brute(boxes: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """What is known of each box of one image, by comparing it with every earlier one."""
    found: list[dict[str, Any]] = []
    for number, (box, flag, label) in enumerate(boxes):
        x1, y1, x2, y2 = box
        finite = all(abs(corner) < float("inf") for corner in box)  # false for NaN too
        clipped = [min(max(x1, 0), WIDTH), min(max(y1, 0), HEIGHT), min(max(x2, 0), WIDTH), min(max(y2, 0), HEIGHT)]
        same = [k for k in range(number) if finite and boxes[k][0] == box and boxes[k][1] == flag]
        repeat = any(boxes[k][2] == label for k in same)
        found.append(
            {
                Defect.NOT_FINITE: not finite,
                Defect.NO_AREA: finite and (clipped[2] <= clipped[0] or clipped[3] <= clipped[1]),
                Defect.OUTSIDE: finite and (min(x1, y1, x2, y2) < 0 or max(x1, x2) > WIDTH or max(y1, y2) > HEIGHT),
                Defect.REPEAT: repeat,
                "into": number if repeat or not same else same[0],
            }
        )
    for number, one in enumerate(found):
        one[Defect.SEVERAL_LABELS] = any(other["into"] == number for other in found[number + 1 :])
    return found


@settings(max_examples=150, deadline=None)
@given(IMAGES, st.data())
def test_every_check_and_the_merging(images: list[list[Any]], data: st.DataObject) -> None:
    boxes = np.array([box for image in images for box, _, _ in image], np.float64).reshape(-1, 4)
    flags = np.array([flag for image in images for _, flag, _ in image], np.uint16)
    labels = np.array([label for image in images for _, _, label in image], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(image) for image in images])]).astype(np.int64)
    sizes = np.tile([WIDTH, HEIGHT], (len(images), 1))
    found = examine_boxes(boxes, offsets, sizes, flags, labels)
    expected = [brute(image) for image in images]
    flat = [one for image in expected for one in image]
    for kind, mask in found.masks.items():
        assert mask.tolist() == [one[kind] for one in flat], kind
    assert found.flags.tolist() == [
        int(flag)
        | BoxFlag.REPEAT * one[Defect.REPEAT]
        | BoxFlag.NO_AREA * (one[Defect.NO_AREA] or one[Defect.NOT_FINITE])
        for flag, one in zip(flags, flat, strict=True)
    ]

    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(images), max_size=len(images))))
    chosen = select_boxes(found, offsets, kept)
    stays = [[n for n, one in enumerate(image) if one["into"] == n] for image in expected]
    assert chosen.index.tolist() == [int(offsets[i]) + n for i in range(len(images)) if kept[i] for n in stays[i]]
    assert chosen.labels.to_pylist() == [
        [
            [images[i][n][2]] + [images[i][k][2] for k in range(n + 1, len(images[i])) if expected[i][k]["into"] == n]
            for n in stays[i]
        ]
        for i in range(len(images))
        if kept[i]
    ]
    assert [len(lists) for lists in chosen.lists(found.flags).to_pylist()] == [
        len(stays[i]) for i in np.flatnonzero(kept)
    ]


def test_a_rounded_fraction_is_not_outside() -> None:
    boxes = np.array([[0, 0, 10.0004, 8], [0, 0, 10.01, 8]])
    for tolerance, expected in ((1e-3, [False, True]), (0.0, [True, True])):
        found = examine_boxes(
            boxes,
            np.array([0, 2]),
            np.array([[10, 8]]),
            np.zeros(2, np.uint16),
            np.zeros(2, np.int32),
            tolerance=tolerance,
        )
        assert found.masks[Defect.OUTSIDE].tolist() == expected


def test_no_box_at_all() -> None:
    found = examine_boxes(
        np.empty((0, 4)),
        np.zeros(3, np.int64),
        np.ones((2, 2), np.int64),
        np.empty(0, np.uint16),
        np.empty(0, np.int32),
    )
    chosen = select_boxes(found, np.zeros(3, np.int64), np.array([True, False]))
    assert chosen.labels.to_pylist() == [[]]
    assert chosen.quads(np.empty((0, 4))).to_pylist() == [[]]
