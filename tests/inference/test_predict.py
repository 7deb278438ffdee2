"""Prediction by Ray Data against a plain loop, and across restarts."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from inference_made import SIZES, dataset, detector, weights
from PIL import Image

from xray_det.data.annotations import Selection
from xray_det.data.augmentation import Augmentation
from xray_det.data.formats.detections import read_detections
from xray_det.data.limits import Limits
from xray_det.data.manifest import Manifest
from xray_det.errors import InputError
from xray_det.inference.predict import Predicting, Prediction, augmentation_at_test, open_prediction, predict

SETTINGS = Predicting(batch=4, part_images=10, device="cpu")
IMAGES = 23


def plain_loop(published: Path, scale: int) -> dict[str, np.ndarray]:
    """Image id -> [detections, 6] of box, score, label: PIL, OpenCV and the detector, batch after batch.

    A batch is four images of a part of ten, in order of aspect; its canvas is a multiple of 32.
    """
    model, found = detector(), {}
    for start in range(0, IMAGES, 10):
        part = sorted(range(start, min(start + 10, IMAGES)), key=lambda k: SIZES[k % 5][0] / SIZES[k % 5][1])
        for first in range(0, len(part), 4):
            chosen = part[first : first + 4]
            shown = []
            for k in chosen:
                image = np.array(Image.open(published / "images" / f"{k}.png").convert("RGB"))
                shown.append(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR))
            height, width = (-(-max(image.shape[axis] for image in shown) // 32) * 32 for axis in (0, 1))
            canvas = np.empty((len(shown), height, width, 3), np.uint8)
            canvas[:] = (124, 116, 104)
            for row, image in enumerate(shown):
                canvas[row, : image.shape[0], : image.shape[1]] = image
            sizes = torch.tensor([image.shape[:2] for image in shown])
            with torch.no_grad():
                answer = model.decode(model(torch.tensor(canvas).permute(0, 3, 1, 2), sizes), sizes)
            rows = torch.cat([answer.boxes / scale, answer.scores[:, None], answer.labels[:, None]], 1).numpy()
            for row, k in enumerate(chosen):
                found[str(k)] = rows[answer.image.numpy() == row]
    return found


def found_in(prediction: Prediction) -> dict[str, np.ndarray]:
    rows = prediction.table().to_pylist()
    flat = {
        row["image_id"]: [[*b, s, c] for b, s, c in zip(row["boxes"], row["scores"], row["labels"], strict=True)]
        for row in rows
    }
    return {name: np.array(value, np.float32).reshape(-1, 6) for name, value in flat.items()}


@pytest.mark.medium
@pytest.mark.parametrize("scale", [1, 2])
def test_ray_finds_what_a_plain_loop_finds(tmp_path: Path, ray_cluster: None, scale: int) -> None:
    folder = dataset(tmp_path, IMAGES)
    space = Manifest.load(folder).space
    sides = Augmentation(short_side=(32 * scale,), max_side=512, flip=0.5, photometric=1.0)
    made = weights(tmp_path / "weights", space, sides)

    prediction = predict(made, [Selection(folder=folder)], str(tmp_path / "out"), settings=SETTINGS, progress=False)

    found, expected = found_in(prediction), plain_loop(tmp_path / "published", scale)
    assert list(found) == [str(k) for k in range(IMAGES)]  # in the order of the annotations
    assert sum(len(rows) for rows in expected.values()) > 5 * IMAGES
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-5, atol=1e-4, err_msg=name)
    assert prediction.space == space
    assert read_detections(tmp_path / "out").image_ids == tuple(found)  # score.py opens the folder


def test_a_prediction_goes_on_where_it_stopped_and_refuses_another(tmp_path: Path) -> None:
    folder = dataset(tmp_path, IMAGES)
    made = weights(tmp_path / "weights", Manifest.load(folder).space)
    selection, out = Selection(folder=folder), tmp_path / "out"
    sides = Augmentation(short_side=(32,))
    image = tmp_path / "published" / "images" / "21.png"
    payload = image.read_bytes()
    image.unlink()
    with pytest.raises(InputError, match=r"21\.png"):
        predict(made, [selection], str(out), augmentation=sides, settings=SETTINGS, progress=False)
    with pytest.raises(InputError, match=r"part \d is missing"):
        open_prediction(str(out))
    image.write_bytes(payload)

    done = predict(made, [selection], str(out), augmentation=sides, settings=SETTINGS, progress=False)
    before = found_in(done)
    parts = sorted(out.glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [10, 10, 3]
    parts[1].unlink()
    marks = {part: part.stat().st_mtime_ns for part in (parts[0], parts[2])}
    predict(made, [selection], str(out), augmentation=sides, settings=SETTINGS, progress=False)
    after = found_in(open_prediction(str(out)))
    assert {part: part.stat().st_mtime_ns for part in marks} == marks
    assert list(before) == list(after)
    for name, rows in before.items():
        np.testing.assert_array_equal(after[name], rows)

    larger = Augmentation(short_side=(64,))
    with pytest.raises(InputError, match=r"augmentation\.short_side"):
        predict(made, [selection], str(out), augmentation=larger, settings=SETTINGS, progress=False)


def test_limits_widen_what_the_detector_was_set_to(tmp_path: Path) -> None:
    folder = dataset(tmp_path, 6)
    made, sides = weights(tmp_path / "weights", Manifest.load(folder).space), Augmentation(short_side=(64,))

    def predicted(out: str, limits: Limits | None) -> Prediction:
        chosen = [Selection(folder=folder)]
        return predict(made, chosen, str(tmp_path / out), augmentation=sides, limits=limits, settings=SETTINGS)

    few = predicted("few", None)
    own = Limits(score_threshold=0.5, max_detections=20)  # inference_made.detector's
    assert few.own == few.limits == own
    found = found_in(few)
    assert max(map(len, found.values())) == 20
    more = predicted("more", Limits(score_threshold=0.05, max_detections=30))
    assert more == open_prediction(more.folder)
    assert (more.own, more.limits) == (own, Limits(score_threshold=0.05, max_detections=30))
    many = found_in(more)
    assert max(map(len, many.values())) == 30
    for image, rows in found.items():
        np.testing.assert_array_equal(many[image][: len(rows)], rows)
    low = found_in(predicted("low", Limits(score_threshold=0.0, candidates=100_000, max_detections=100_000)))
    assert min(rows[:, 4].min() for rows in low.values()) < 0.5
    assert predicted("few", Limits(score_threshold=0.9, max_detections=1)).limits == own, "never less than its own"


def test_a_folder_with_more_detections_serves_and_one_with_fewer_is_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path, 12)
    made, sides = weights(tmp_path / "weights", Manifest.load(folder).space), Augmentation(short_side=(32,))

    def predicted(limits: Limits) -> Prediction:
        chosen, out = [Selection(folder=folder)], str(tmp_path / "out")
        return predict(made, chosen, out, augmentation=sides, limits=limits, settings=SETTINGS)

    wide = predicted(Limits(max_detections=40))
    before = found_in(wide)
    (tmp_path / "out" / "part-00001.parquet").unlink()
    again = predicted(Limits(max_detections=30))
    assert again == wide
    for image, rows in found_in(again).items():
        np.testing.assert_array_equal(before[image], rows)  # the part that was missing has 40 as well
    with pytest.raises(InputError, match=r"limits\.max_detections: 40 -> 50"):
        predicted(Limits(max_detections=50))
    with pytest.raises(InputError, match=r"limits\.score_threshold: 0\.05 -> 0\.0001"):
        predicted(Limits(score_threshold=1e-4))
    said = tmp_path / "out" / "prediction.json"
    said.write_text(json.dumps({k: v for k, v in json.loads(said.read_text()).items() if k != "limits"}))
    with pytest.raises(InputError, match="does not say which detections are in it"):
        open_prediction(str(tmp_path / "out"))


def test_sizes_come_from_the_experiment_with_nothing_random(tmp_path: Path) -> None:
    from xray_det.labels.space import Class, LabelSpace

    space = LabelSpace(name="s", classes=(Class(name="cup", source_id="1"),))
    augmentation = Augmentation(short_side=(320, 352), max_side=640, flip=0.5, scale_jitter=(0.5, 2.0))
    made = weights(tmp_path / "weights", space, augmentation)
    assert augmentation_at_test(made) == augmentation.evaluation()
    config = tmp_path / "weights" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "experiment": None}))
    assert augmentation_at_test(made) == Augmentation().evaluation()


def test_sizes_are_those_of_the_preprocessor_unless_others_are_asked_for(tmp_path: Path) -> None:
    from xray_det.labels.space import Class, LabelSpace

    space = LabelSpace(name="s", classes=(Class(name="cup", source_id="1"),))
    augmentation = Augmentation(short_side=(320, 352), max_side=640, fill=(1, 2, 3))
    made = weights(tmp_path / "weights", space, augmentation)
    file = tmp_path / "weights" / "preprocessor_config.json"
    published = json.loads(file.read_text())

    def said(**sizes: object) -> None:
        file.write_text(json.dumps({**published, **sizes}))

    said(size={"shortest_edge": 480, "longest_edge": 900}, pad_size_divisor=16)
    expected = replace(augmentation.evaluation(), short_side=(480,), max_side=900, multiple=16)
    assert augmentation_at_test(made) == expected
    assert augmentation_at_test(made, short_side=1000) == replace(expected, short_side=(1000,), max_side=1000)
    assert augmentation_at_test(made, short_side=600) == replace(expected, short_side=(600,))
    assert augmentation_at_test(made, max_side=500) == replace(expected, max_side=500)
    for short_side, max_side in ((0, None), (None, 479), (300, 200), (None, 0)):
        with pytest.raises(InputError, match=r"augmentation\.short_side"):
            augmentation_at_test(made, short_side=short_side, max_side=max_side)
    for size in ({"height": 4, "width": 4}, 480, None, {"shortest_edge": 9, "longest_edge": 8}):
        said(size=size)
        with pytest.raises(InputError, match=r"preprocessor_config\.json: size .*Give \"size\""):
            augmentation_at_test(made)
