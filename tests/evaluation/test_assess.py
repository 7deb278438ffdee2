"""Predictions of ingested datasets: in parts, in any order of files, by Ray; equal to the whole to the last bit."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from test_verdicts import assert_same

from xray_det.data import shards
from xray_det.data.annotations import Selection
from xray_det.data.limits import MANY_CLASSES, Limits
from xray_det.data.manifest import Manifest
from xray_det.data.schema import DETECTIONS
from xray_det.errors import InputError
from xray_det.evaluation import assess as module
from xray_det.evaluation import coco, open_images, parts, voc
from xray_det.evaluation.assess import assess
from xray_det.evaluation.columns import detected_from_table, truth_from_shards
from xray_det.evaluation.result import Result
from xray_det.inference.predict import Prediction
from xray_det.labels.hierarchy import Hierarchy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
from made_shards import made_dataset

PROTOCOLS = ("coco", "voc", "open_images")
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """60 images in 9 shards, partly verified; class 0 is a kind of 1 and of 2."""
    folder = tmp_path_factory.mktemp("made")
    made_dataset(folder, "made", 60, exhaustive=False)
    manifest = Manifest.load(str(folder))
    hierarchy = Hierarchy(parents=(("0", "1"), ("0", "2")))
    return replace(manifest, hierarchy=hierarchy).save(str(folder))


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XRAY_DET_HOME", str(tmp_path / "home"))


@pytest.fixture
def detections(dataset: Manifest) -> Rows:
    """Rows of schema.DETECTIONS in the order of the dataset; scores of one decimal, so that most are tied."""
    rng = np.random.default_rng(0)
    rows = []
    for image in truth_rows(dataset):
        boxes, labels = [], []
        for box, some in zip(image["boxes"], image["labels"], strict=True):
            for label in (*some, int(rng.integers(4))):
                boxes.append((np.array(box) + rng.normal(0, 4, 4)).tolist())
                labels.append(label)
        scores = np.sort(rng.integers(1, 10, len(labels)) / 10)[::-1]
        rows.append({"image_id": image["image_id"], "dataset": "made", "boxes": boxes, "labels": labels})
        rows[-1]["scores"] = scores.tolist()
    return rows


def truth_rows(dataset: Manifest) -> Rows:
    return [row for uri in dataset.shard_uris for row in shards.read_table(uri).to_pylist()]


def write(folder: Path, dataset: Manifest, rows: Rows, rows_a_file: int = 7, own: Limits | None = None) -> Prediction:
    own = own or Limits()
    schema = DETECTIONS.with_metadata({"classes": json.dumps(dataset.space.to_json())})
    files = [rows[start : start + rows_a_file] for start in range(0, len(rows), rows_a_file)]
    for number, some in enumerate(files):
        shards.write_table(pa.Table.from_pylist(some, schema=schema), str(folder / f"part-{number:05d}.parquet"))
    return Prediction(folder=str(folder), parts=len(files), space=dataset.space, own=own, limits=own)


def whole(dataset: Manifest, rows: Rows, split: str | None = None) -> dict[str, Result]:
    """Each protocol on everything in one process."""
    table = pa.concat_tables(shards.read_table(uri) for uri in dataset.shard_uris)
    if split is not None:
        table = table.filter(pa.compute.equal(table["split"], split))
    truth = truth_from_shards(table, dataset.space, exhaustive=dataset.exhaustive)
    detected = detected_from_table(pa.Table.from_pylist(rows, schema=DETECTIONS), truth)
    assert dataset.hierarchy is not None
    ancestors = dataset.hierarchy.ancestors(dataset.space)
    return {
        "coco": coco.evaluate(truth, detected),
        "voc": voc.evaluate(truth, detected),
        "open_images": open_images.evaluate(truth, detected, ancestors=ancestors),
    }


def assert_all_same(found: dict[str, Result], expected: dict[str, Result]) -> None:
    assert tuple(found) == PROTOCOLS
    for protocol, result in found.items():
        assert 0.05 < np.nanmean(result.ap) < 0.95
        assert_same(result, expected[protocol])


@pytest.mark.parametrize("images", [7, 20, 100])
@pytest.mark.parametrize("split", [None, "val"])
def test_parts_are_the_whole(
    tmp_path: Path,
    dataset: Manifest,
    detections: Rows,
    images: int,
    split: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "PART_IMAGES", images)
    monkeypatch.setattr(module, "each", backwards)
    prediction = write(tmp_path, dataset, detections)
    found = assess(prediction, Selection(folder=dataset.folder, split=split), PROTOCOLS)
    assert_all_same(found, whole(dataset, detections, split))


def backwards(task: Any, jobs: Sequence[Any]) -> list[Any]:
    """As Ray may: the last first."""
    return [task(job) for job in reversed(jobs)]


def test_images_written_in_any_order_are_scored_in_the_datasets(
    tmp_path: Path, dataset: Manifest, detections: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_IMAGES", 16)
    monkeypatch.setattr(module, "each", backwards)
    other = [{**row, "dataset": "other"} for row in detections[:9]]
    shuffled = [(detections + other)[row] for row in np.random.default_rng(1).permutation(69)]
    found = assess(write(tmp_path, dataset, shuffled), Selection(folder=dataset.folder), PROTOCOLS)
    assert_all_same(found, whole(dataset, detections))


@pytest.mark.medium
@pytest.mark.usefixtures("ray_cluster")
def test_by_ray(tmp_path: Path, dataset: Manifest, detections: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_IMAGES", 10)
    found = assess(write(tmp_path, dataset, detections), Selection(folder=dataset.folder), PROTOCOLS)
    assert_all_same(found, whole(dataset, detections))


def test_an_image_that_was_not_predicted_has_no_detections(
    tmp_path: Path, dataset: Manifest, detections: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_IMAGES", 20)  # the last part has no file
    monkeypatch.setattr(module, "each", backwards)
    found = assess(write(tmp_path, dataset, detections[:40]), Selection(folder=dataset.folder), PROTOCOLS)
    assert_all_same(found, whole(dataset, detections[:40]))


def test_what_cannot_be_scored_is_named(tmp_path: Path, dataset: Manifest, detections: Rows) -> None:
    selection = Selection(folder=dataset.folder)
    foreign = write(tmp_path / "foreign", dataset, [{**row, "image_id": "x" + row["image_id"]} for row in detections])
    with pytest.raises(InputError, match="holds no image of made"):
        assess(foreign, selection, PROTOCOLS)
    twice = write(tmp_path / "twice", dataset, [*detections, detections[3]])
    with pytest.raises(InputError, match="'made-3' occurs twice"):
        assess(twice, selection, PROTOCOLS)
    unknown = write(tmp_path / "unknown", dataset, [{**row, "labels": [4] * len(row["labels"])} for row in detections])
    with pytest.raises(InputError, match="label 4 is none of the detector's 4 classes"):
        assess(unknown, selection, PROTOCOLS)
    with pytest.raises(InputError, match="no images of split 'test'"):
        assess(unknown, Selection(folder=dataset.folder, split="test"), PROTOCOLS)


def test_a_task_imports_neither_torch_nor_the_engine() -> None:
    code = "import sys, xray_det.evaluation.parts; assert not {'torch', 'hotcoco', 'mlflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
