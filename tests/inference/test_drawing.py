"""What a picture says of each box, and that it says it in the picture."""

from pathlib import Path

import numpy as np
import pytest
from inference_made import dataset, weights

from xray_det.data.annotations import Annotations, Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.inference.drawing import Boxes, Outcome, beside, outcomes, sheet
from xray_det.inference.gallery import pictures_beside_truth
from xray_det.inference.predict import Predicting, predict

FOUND, MISSED, WRONG, UNJUDGED = Outcome.FOUND, Outcome.MISSED, Outcome.WRONG, Outcome.UNJUDGED


def boxes(*rows: tuple[list[float], str], judged: list[bool] | None = None, scores: list[float] | None = None) -> Boxes:
    return Boxes(
        boxes=np.array([box for box, _ in rows], np.float64).reshape(-1, 4),
        labels=[tuple(names.split("/")) for _, names in rows],
        judged=np.ones(len(rows), bool) if judged is None else np.array(judged),
        scores=None if scores is None else np.array(scores),
    )


NONE = boxes(scores=[])
CUP: list[float] = [0, 0, 10, 10]


def test_the_best_detection_of_an_object_finds_it_and_the_next_is_wrong() -> None:
    truth = boxes((CUP, "cup"))
    found = boxes((CUP, "cup"), ([0, 0, 10, 9], "cup"), scores=[0.6, 0.9])
    assert outcomes(truth, found) == ([FOUND], [WRONG, FOUND])


def test_class_and_overlap_decide() -> None:
    truth = boxes((CUP, "cup/mug"), ([20, 20, 30, 30], "plate"))
    found = boxes(
        (CUP, "plate"), ([0, 0, 10, 4.9], "cup"), ([0, 0, 10, 5], "mug"), ([20, 20, 30, 30], "cup"), scores=[0.9] * 4
    )
    assert outcomes(truth, found) == ([FOUND, MISSED], [WRONG, WRONG, FOUND, WRONG])


def test_regions_and_foreign_classes_are_not_judged() -> None:
    truth = boxes(([0, 0, 50, 50], "cup"), judged=[False])
    found = boxes(
        ([5, 5, 15, 15], "cup"), ([5, 5, 15, 15], "plate"), ([80, 80, 90, 90], "cup"), (CUP, "zebra"),
        judged=[True, True, True, False], scores=[0.9, 0.8, 0.7, 0.6],
    )  # fmt: skip
    assert outcomes(truth, found) == ([UNJUDGED], [UNJUDGED, WRONG, WRONG, UNJUDGED])


def test_nothing_on_one_side() -> None:
    some = boxes((CUP, "cup"), scores=[0.5])
    assert outcomes(NONE, some) == ([], [WRONG])
    assert outcomes(some, NONE) == ([MISSED], [])
    assert outcomes(NONE, NONE) == ([], [])


def colours(picture: np.ndarray) -> set[Outcome]:
    """Outcomes whose colour is in the picture."""

    def rgb(outcome: Outcome) -> list[int]:
        return [int(outcome.value[k : k + 2], 16) for k in (1, 3, 5)]

    return {outcome for outcome in Outcome if (picture == rgb(outcome)).all(axis=2).any()}


def test_a_picture_shows_each_side_in_its_colours_and_is_large_enough_to_read() -> None:
    image = np.full((60, 90, 3), 200, np.uint8)
    truth = boxes(([10, 10, 30, 30], "Жук"), ([50, 10, 70, 30], "β"))
    found = boxes(([10, 10, 30, 30], "Жук"), ([50, 35, 70, 50], "β"), scores=[0.9, 0.4])
    picture = beside(image, truth, found, title="image 7")
    assert min(picture.shape[:2]) >= 400
    left, right = picture[:, : picture.shape[1] // 2 - 8], picture[:, picture.shape[1] // 2 + 8 :]
    assert colours(left) == {FOUND, MISSED}
    assert colours(right) == {FOUND, WRONG}
    assert colours(beside(image, truth, found.above(0.5))) == {FOUND, MISSED}
    np.testing.assert_array_equal(image, 200)  # the image itself is left alone


def test_a_sheet_holds_every_picture() -> None:
    shades = [np.full((20 + 5 * k, 30, 3), 10 * k, np.uint8) for k in range(5)]
    page = sheet(shades, columns=2)
    for k, shade in enumerate(shades):
        assert (page == 10 * k).all(axis=2).sum() == shade.shape[0] * shade.shape[1]
    with pytest.raises(InputError, match="none to draw"):
        sheet([])


def test_pictures_of_a_prediction(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    selection = Selection(folder=folder)
    made = weights(tmp_path / "weights", Manifest.load(folder).space, Augmentation(short_side=(64,)))
    settings = Predicting(where="here")
    prediction = predict(made, [selection], str(tmp_path / "out"), settings=settings, progress=False)
    drawn = dict(pictures_beside_truth(prediction, selection, images=4, score=0.5))
    again = dict(pictures_beside_truth(prediction, selection, images=4, score=0.5))
    assert len(drawn) == 4
    batch = Annotations.open([selection]).batch
    with_boxes = {i for i, b in zip(batch["image_id"].to_pylist(), batch["boxes"].to_pylist(), strict=True) if b}
    assert set(drawn) <= with_boxes
    for image_id, picture in drawn.items():
        np.testing.assert_array_equal(picture, again[image_id])
        assert colours(picture) & {FOUND, MISSED}
    assert len(dict(pictures_beside_truth(prediction, selection, images=99))) == len(with_boxes)
