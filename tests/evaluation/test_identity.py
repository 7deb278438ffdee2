"""Images and classes are recognised across layouts, or named when they are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xray_det.data.formats.detections import DetectionFile
from xray_det.errors import InputError
from xray_det.evaluation.columns import Truth
from xray_det.evaluation.identity import align
from xray_det.labels.space import Class, LabelSpace

Make = Callable[..., Any]


def file_of(rows: list[tuple[str, str, list[float]]], **kwargs: Any) -> DetectionFile:
    images, classes = (tuple(dict.fromkeys(row[k] for row in rows)) for k in (0, 1))
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    settings = {
        "path": Path("dets.json"),
        "image_ids": images,
        "image": np.array([images.index(row[0]) for row in rows], np.int64),
        "class_ids": classes,
        "label": np.array([classes.index(row[1]) for row in rows], np.int64),
        "boxes": boxes,
        "sizes": boxes[:, 2:] - boxes[:, :2],
        "scores": np.linspace(1, 0.5, len(rows)),
        "format": "coco",
    }
    return DetectionFile(**(settings | kwargs))


BOX = [10.0, 10.0, 20.0, 30.0]


@pytest.fixture
def truth(truth_of: Make) -> Truth:
    """Images 000007 and 000010 of 100 x 100 pixels, classes Cat (1) and Dog (18)."""
    made = truth_of([(0, 0, BOX, 0), (1, 1, BOX, 0)], images=2, classes=2)
    space = LabelSpace(name="made", classes=(Class(name="Cat", source_id="1"), Class(name="Dog", source_id="18")))
    return replace(made, space=space, image_ids=("000007", "000010"))


@pytest.mark.parametrize("image", ["000010", "000010.jpg", "val/000010.png", "10"])
@pytest.mark.parametrize("label", ["18", "Dog", "dog", " DOG "])
def test_an_id_a_file_name_a_number(truth: Truth, image: str, label: str) -> None:
    detected, notes = align(file_of([(image, label, BOX)]), truth)
    assert (detected.image.tolist(), detected.label.tolist(), notes) == ([1], [1], [])


def test_a_files_own_tables_go_before_equal_numbers(truth: Truth) -> None:
    """The file counts images and classes from 0; by number its 1 would be Cat."""
    named = replace(truth, image_ids=("0", "1"), paths=("x/a.jpg", "x/b.jpg"))
    file = file_of([("0", "1", BOX)], image_names={"0": "b.jpg", "1": "a.jpg"}, class_names={"0": "cat", "1": "dog"})
    detected, _ = align(file, named)
    assert (detected.image.tolist(), detected.label.tolist()) == ([1], [1])


def test_open_images_ids_are_known_without_names(truth: Truth) -> None:
    space = LabelSpace(name="oid", classes=(Class(name="/m/01yrx", source_id="/m/01yrx"),))
    bare = replace(truth, space=space, label=np.zeros(2, np.int32))
    detected, _ = align(file_of([("000007", "/m/01yrx", BOX)], class_names={"/m/01yrx": "Cat"}), bare)
    assert detected.label.tolist() == [0]


def test_a_name_that_stands_for_two_images_is_not_used(truth: Truth) -> None:
    twice = replace(truth, image_ids=("1", "2"), paths=("train/a.jpg", "val/a.jpg"))
    with pytest.raises(InputError, match=r"'a\.jpg'"):
        align(file_of([("a.jpg", "1", BOX)]), twice)


def test_the_unknown_is_named_or_left_out_where_that_is_right(truth: Truth) -> None:
    rows = [("000007", "18", BOX), ("000007", "bird", BOX), ("000007", "bird", BOX)]
    with pytest.raises(InputError, match="1 of its 2 classes are not in the truth"):
        align(file_of(rows), truth)
    detected, notes = align(file_of(rows), truth, open_classes=True)
    assert detected.scores.tolist() == [1.0]
    assert "2 detections of 1 classes" in notes[0]
    with pytest.raises(InputError, match="'bird'"):  # nothing in common is always an error
        align(file_of(rows[1:]), truth, open_classes=True)
    with pytest.raises(InputError, match=r"1 of its 2 images.*'31'"):
        align(file_of([*rows[:1], ("31", "18", BOX)]), truth)


def test_pixels_meet_fractions_through_published_sizes(truth: Truth) -> None:
    fractions = [0.1, 0.1, 0.2, 0.3]
    detected, notes = align(file_of([("000007", "1", fractions)], format="open_images"), truth)
    np.testing.assert_allclose(detected.boxes, [BOX])
    np.testing.assert_allclose(detected.sizes, [[10, 20]])
    assert "multiplied" in notes[0]
    in_fractions = replace(truth, boxes=truth.boxes / 100, sizes=truth.sizes / 100, normalized=True)
    detected, notes = align(file_of([("000007", "1", BOX)]), in_fractions)
    np.testing.assert_allclose(detected.boxes, [fractions])
    assert "divided" in notes[0]
    unsized = replace(in_fractions, image_sizes=np.full((2, 2), np.nan))
    with pytest.raises(InputError, match="no image sizes"):
        align(file_of([("000007", "1", BOX)]), unsized)


def test_numbers_of_one_unit_stay_as_they_are(truth: Truth) -> None:
    pixels, _ = align(file_of([("000007", "1", BOX)], format="open_images"), truth)
    assert pixels.boxes.tolist() == [BOX]
    tiny, notes = align(file_of([("000007", "1", [0.0, 0.0, 1.0, 2.0])]), truth)  # COCO results are pixels
    assert (tiny.boxes.tolist(), notes) == ([[0.0, 0.0, 1.0, 2.0]], [])
