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


def coco_truth(truth: Truth, ids: tuple[str, ...], paths: tuple[str, ...]) -> Truth:
    """Three images of these ids and file names, without boxes of interest."""
    return replace(truth, image_ids=ids, paths=paths, image_sizes=np.full((len(ids), 2), 100.0))


@pytest.mark.parametrize(
    ("ids", "paths", "asked", "rows"),
    [
        # by id, by stem: an id must not be taken for a stem, nor a stem for an id, in the middle of a file
        (("0", "1", "2"), ("1.jpg", "2.jpg", "3.jpg"), ["0", "1", "2"], [0, 1, 2]),
        (("0", "1", "2"), ("1.jpg", "2.jpg", "3.jpg"), ["1", "2", "3"], [0, 1, 2]),
        (("0", "1", "2"), ("1.jpg", "2.jpg", "3.jpg"), ["3", "2"], [2, 1]),
        (("10", "20", "30"), ("1.jpg", "2.jpg", "10.jpg"), ["1", "2", "10"], [0, 1, 2]),
        # zeros before a number, suffixes, folders, backslashes, blanks and quotes around it
        (("139", "285"), ("x/a.jpg", "x/b.jpg"), ["000000000139", "000000000285"], [0, 1]),
        (("139", "285"), ("000000000139.jpg", "000000000285.jpg"), ["000000000139", "000000000285"], [0, 1]),
        (("139", "285"), ("x/a.jpg", "x/b.jpg"), ["val2017/000000000139.jpg"], [0]),
        (("000139", "000285"), ("x/a.jpg", "x/b.jpg"), ["139", "285"], [0, 1]),
        (("1", "2"), ("x/a.jpg", "x/b.jpg"), ["/home/me/b.jpg", "C:\\data\\a.jpg"], [1, 0]),
        (("1", "2"), ("x/a.jpg", "x/b.jpg"), [" 2", '"1"'], [1, 0]),
        # stems as numbers, among stems that are none, as detectors write them that take stems for ids
        (("0", "1", "2"), ("0001.jpg", "0002.jpg", "a.jpg"), ["1", "2", "a"], [0, 1, 2]),
        (("5", "6"), ("000000000139.jpg", "000000000285.jpg"), ["285", "139"], [1, 0]),
        # the folder tells apart what the name alone does not
        (("1", "2"), ("train/a.jpg", "val/a.jpg"), ["val/a.jpg", "train\\a.jpg"], [1, 0]),
        (("1", "2"), ("a.tif", "b.heic"), ["b", "a.txt"], [1, 0]),
        (("1", "2"), ("a.b.jpg", "a.c.jpg"), ["a.c", "a.b"], [1, 0]),
    ],
)
def test_the_images_of_a_file_are_known_by_one_rule(
    truth: Truth, ids: tuple[str, ...], paths: tuple[str, ...], asked: list[str], rows: list[int]
) -> None:
    detected, notes = align(file_of([(one, "1", BOX) for one in asked]), coco_truth(truth, ids, paths))
    assert (detected.image.tolist(), notes) == (rows, [])


def test_images_that_two_rules_know_as_others_are_known_by_id_with_a_note(truth: Truth) -> None:
    both = coco_truth(truth, ("0", "1", "2"), ("1.jpg", "2.jpg", "3.jpg"))
    detected, notes = align(file_of([("1", "1", BOX), ("2", "1", BOX)]), both)
    assert detected.image.tolist() == [1, 2]
    assert notes == ["its images are known by id and, as others, by file name: id is used"]


def test_a_file_of_ids_and_of_names_is_refused_with_the_counts(truth: Truth) -> None:
    mixed = coco_truth(truth, ("7", "8", "9"), ("a.jpg", "b.jpg", "c.jpg"))
    with pytest.raises(InputError, match=r"of its 3 images 2 are known by id alone, and 1 by file name alone \('c'\)"):
        align(file_of([("7", "1", BOX), ("8", "1", BOX), ("c", "1", BOX)]), mixed)


def test_a_files_own_names_that_the_truth_does_not_have_leave_its_ids(truth: Truth) -> None:
    bare = coco_truth(truth, ("7", "8"), ("a.jpg", "b.jpg"))
    detected, _ = align(file_of([("8", "1", BOX)], image_names={"8": "frame_0001.png"}), bare)
    assert detected.image.tolist() == [1]


def test_coco_results_of_another_unit_or_form_are_scored_as_they_stand_with_a_note(truth: Truth) -> None:
    def notes_of(*boxes: list[float], **settings: Any) -> list[str]:
        file = file_of([("000007", "1", box) for box in boxes], **settings)
        detected, notes = align(file, truth)
        np.testing.assert_array_equal(detected.boxes, file.boxes)
        return notes

    assert "fractions of the image?" in notes_of([0.1, 0.1, 0.4, 0.5])[0]
    assert notes_of([0.1, 0.1, 0.4, 0.5], BOX) == []
    # x, y, width, height of 10, 20, 60, 90 and 30, 30, 80, 80 in images of 100 x 100
    assert "all would fit as x1, y1, x2, y2" in notes_of([10, 20, 70, 110], [30, 30, 110, 110])[0]
    assert notes_of([10, 20, 70, 110], [30, 30, 110, 110], format="parquet") == []
    assert notes_of([10, 20, 70, 110], [30, 30, 40, 40]) == []
    assert notes_of([0, 0, 100, 100], [0, 0, 101, 101]) == []


def test_the_classes_of_a_file_are_known_by_one_rule(truth: Truth) -> None:
    """Digits: published ids count from 1, names from 0."""
    digits = tuple(Class(name=str(n), source_id=str(n + 1)) for n in range(10))
    numbers = replace(truth, space=LabelSpace(name="digits", classes=digits))
    by_name, notes = align(file_of([("000007", str(n), BOX) for n in range(10)]), numbers)
    assert (by_name.label.tolist(), notes) == (list(range(10)), [])  # 0 is no id
    by_id, notes = align(file_of([("000007", str(n), BOX) for n in range(1, 11)]), numbers)
    assert (by_id.label.tolist(), notes) == (list(range(10)), [])  # 10 is no name
    both, notes = align(file_of([("000007", str(n), BOX) for n in range(1, 10)]), numbers)
    assert both.label.tolist() == list(range(9))
    assert notes == ["its classes are known by id and, as others, by name: id is used"]
    with pytest.raises(InputError, match=r"of its 2 classes 1 are known by id alone, and 1 by name alone \('dog'\)"):
        align(file_of([("000007", "1", BOX), ("000007", "dog", BOX)]), truth)


def test_a_truth_of_another_unit_or_form_is_noted_too(truth: Truth) -> None:
    fractions = replace(truth, boxes=truth.boxes / 100, sizes=truth.sizes / 100)
    _, notes = align(file_of([("000007", "1", BOX)]), fractions)
    assert [note[:41] for note in notes] == ["all boxes of the truth lie in 0 to 1: are"]
    corners = np.array([[10.0, 20, 70, 110], [30, 30, 110, 110]])
    _, notes = align(
        file_of([("000007", "1", BOX)]), replace(truth, boxes=corners, sizes=corners[:, 2:] - corners[:, :2])
    )
    assert [note[:46] for note in notes] == ["boxes of the truth reach outside their images "]
