"""The LVIS protocol against lvis-api, array by array and to the last bit."""

import contextlib
import copy
import io
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xray_det.data.formats.detections import read_detections
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation import lvis, published
from xray_det.evaluation.columns import Detected, Truth
from xray_det.evaluation.engine import precision_recall
from xray_det.evaluation.identity import align
from xray_det.labels.space import LabelSpace

Make = Callable[..., Any]
Document = dict[str, Any]
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300"]


@pytest.fixture
def lvis_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Document, list[Document]], Any]:
    """lvis-api's LVISEval after its run, on a document and a list of detections."""
    monkeypatch.setattr(np, "float", float, raising=False)  # which numpy no longer has
    logging.disable(logging.WARNING)
    from lvis import LVIS, LVISEval, LVISResults

    def says(document: Document, found: list[Document]) -> Any:
        (tmp_path / "reference.json").write_text(json.dumps(document))
        published = LVIS(str(tmp_path / "reference.json"))
        evaluation = LVISEval(published, LVISResults(published, copy.deepcopy(found)), "bbox")
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.run()
        return evaluation

    yield says  # type: ignore[misc]
    logging.disable(logging.NOTSET)


def federated_scene(seed: int) -> tuple[Document, list[Document]]:
    """LVIS JSON and detections: boxes on and around every area limit, some to be ignored; equal scores; detections
    of present, absent and unverified classes; classes that are not exhaustively boxed, some of them without a box or
    listed as absent too; in some scenes images with more than 300 detections."""
    rng = np.random.default_rng(seed)
    classes, images = 7, 9
    categories = [{"id": 3 * c + 1, "name": f"class {c}", "frequency": "rcf"[(c + seed) % 3]} for c in range(classes)]
    ids = np.array([c["id"] for c in categories])
    document: Document = {"images": [], "annotations": [], "categories": categories}
    found: list[Document] = []

    def detect(image: int, category: int, box: list[float]) -> None:
        score = round(float(rng.random()), 2)
        found.append({"image_id": image, "category_id": category, "bbox": box, "score": score})

    for number in range(images):
        image = 5 * number + 2
        held = rng.choice(ids, rng.integers(0, 4), replace=False).tolist()
        absent = [c for c in rng.choice(ids, 3, replace=False).tolist() if c not in held]
        unclear = [c for c in ids.tolist() if rng.random() < 0.25]
        lists = {"neg_category_ids": absent, "not_exhaustive_category_ids": unclear}
        document["images"].append({"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"} | lists)
        for category in held:
            for _ in range(rng.integers(1, 5)):
                x, y, w, h = (float(v) for v in (*rng.integers(0, 200, 2), *rng.choice([9, 31, 32, 33, 96, 97], 2)))
                area = float(rng.choice([w * h, 0.6 * w * h, 1024.0, 9216.0]))
                box = {"id": len(document["annotations"]) + 1, "image_id": image, "category_id": category}
                box |= {"bbox": [x, y, w, h], "area": area, "ignore": int(rng.random() < 0.1)}
                document["annotations"].append(box)
                for _ in range(rng.integers(0, 4)):
                    near = np.array([x, y, w, h]) + rng.normal(0, 4, 4).round(1)
                    near[2:] = np.maximum(near[2:], 1.0)
                    detect(image, category if rng.random() < 0.8 else int(rng.choice(ids)), near.tolist())
        for _ in range(320 if seed % 4 == 0 and number % 3 == 0 else rng.integers(0, 20)):
            corner, size = rng.integers(0, 200, 2).tolist(), rng.choice([9, 32, 96, 120], 2).tolist()
            detect(image, int(rng.choice(ids)), [float(v) for v in corner + size])
    document["images"].reverse()
    return document, [found[n] for n in rng.permutation(len(found))]


def read(folder: Path, document: Document, found: list[Document]) -> tuple[Truth, Detected]:
    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "found.json").write_text(json.dumps(found))
    truth, source = published.read_truth([folder / "truth.json"])
    assert source.format == "lvis"
    detected, notes = align(read_detections(folder / "found.json"), truth)
    assert notes == []
    return truth, detected


def test_equals_lvis_api_on_made_scenes(tmp_path: Path, lvis_says: Make) -> None:
    seen = {"ignored": 0, "unclear": 0, "unverified": 0, "overflow": 0}
    for seed in range(24):
        document, found = federated_scene(seed)
        truth, detected = read(tmp_path, document, found)
        expected = lvis_says(document, found)
        arrays = precision_recall(truth, detected, federated=True)
        np.testing.assert_array_equal(arrays.precision[..., 0], expected.eval["precision"])
        np.testing.assert_array_equal(arrays.recall[..., 0], expected.eval["recall"])
        result = lvis.evaluate(truth, detected)
        assert dict(result.metrics) == dict(expected.results)
        assert list(result.metrics) == NAMES
        every = expected.eval["precision"][:, :, :, 0]
        for row in range(7):
            ap = every[:, :, row].mean()
            assert result.ap[row] == pytest.approx(ap, abs=1e-12) if ap > -1 else np.isnan(result.ap[row])
        verified = {(a["image_id"], a["category_id"]) for a in document["annotations"]}
        verified |= {(i["id"], c) for i in document["images"] for c in i["neg_category_ids"]}
        seen["ignored"] += sum(a["ignore"] for a in document["annotations"])
        seen["unclear"] += sum(len(i["not_exhaustive_category_ids"]) for i in document["images"])
        seen["unverified"] += sum((d["image_id"], d["category_id"]) not in verified for d in found)
        seen["overflow"] += int((np.bincount(detected.image) > 300).sum())
    assert min(seen.values()) > 10, seen


@pytest.mark.parametrize(
    "listed", [{}, {"verified": [(0, 1, 0)]}, {"verified": [(0, 1, 0)], "not_exhaustive": [(0, 1)]}]
)
def test_a_wrong_detection_counts_where_its_class_was_looked_for(
    truth_of: Make, detected_of: Make, listed: dict[str, Any]
) -> None:
    """Class 1 is boxed in the second image, where it is found with less certainty than where nothing is, in the first.

    Only where the first image lists it as absent, and no more, is that an error: the precision halves.
    """
    box = [0, 0, 50, 50]
    truth = truth_of([(1, 1, box, 0)], images=2, classes=2, exhaustive=False, **listed)
    result = lvis.evaluate(truth, detected_of([(0, 1, box, 0.9), (1, 1, box, 0.8)]))
    assert result.ap[1] == pytest.approx(0.5 if listed == {"verified": [(0, 1, 0)]} else 1.0)
    assert np.isnan(result.ap[0])
    every = replace(truth, exhaustive=True)
    assert lvis.evaluate(every, detected_of([(0, 1, box, 0.9), (1, 1, box, 0.8)])).ap[1] == pytest.approx(
        1.0 if "not_exhaustive" in listed else 0.5
    )


def test_no_detection_and_no_truth(truth_of: Make, detected_of: Make) -> None:
    truth = truth_of([(0, 0, [0, 0, 50, 50], BoxFlag(0))], images=1, classes=3, exhaustive=False)
    silent = lvis.evaluate(truth, detected_of([])).metrics
    assert {name for name, value in silent.items() if value == 0} == {
        "AP", "AP50", "AP75", "APm", "APr", "AR@300", "ARm@300"
    }  # fmt: skip
    assert set(silent.values()) == {0.0, -1.0}
    empty = lvis.evaluate(truth_of([], images=1, classes=3), detected_of([(0, 0, [0, 0, 9, 9], 0.5)]))
    assert set(empty.metrics.values()) == {-1.0}


def test_classes_without_a_frequency_are_named(truth_of: Make, detected_of: Make) -> None:
    truth = truth_of([], images=1, classes=3)
    plain = LabelSpace(name="made", classes=tuple(replace(c, frequency=None) for c in truth.space.classes[:2]))
    with pytest.raises(InputError, match=r"2 of 2 classes have no frequency \(class 0, class 1\)"):
        lvis.evaluate(replace(truth, space=plain), detected_of([]))
