"""Predictions of ingested datasets: in parts, in any order of files, by Ray; equal to the whole to the last bit."""

import json
import shutil
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
from xray_det.data.limits import Limits
from xray_det.data.manifest import Manifest
from xray_det.data.schema import DETECTIONS
from xray_det.errors import InputError
from xray_det.evaluation import assess as module
from xray_det.evaluation import coco, open_images, parts, voc
from xray_det.evaluation.assess import assess, needed
from xray_det.evaluation.columns import detected_from_table, truth_from_shards
from xray_det.evaluation.result import Result
from xray_det.inference.predict import Prediction
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace

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


def assert_all_same(found: dict[str, Result], expected: dict[str, Result], least: float = 0.05) -> None:
    assert tuple(found) == PROTOCOLS
    for protocol, result in found.items():
        assert least < np.nanmean(result.ap) < 0.95
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


@pytest.fixture
def many(dataset: Manifest, detections: Rows) -> Rows:
    """130 detections an image, the found boxes at random places among them; a fifth score 0.05 or less."""
    rng = np.random.default_rng(2)
    rows = []
    for row in detections:
        extra = 130 - len(row["labels"])
        corners = rng.uniform(0, 40, (extra, 2))
        boxes = [*row["boxes"], *np.concatenate([corners, corners + rng.uniform(2, 9, (extra, 2))], axis=1).tolist()]
        labels = [*row["labels"], *rng.integers(0, 4, extra).tolist()]
        order = rng.permutation(130)
        scores = np.sort(np.float32(rng.choice([*np.linspace(0.1, 0.9, 8), 0.05, 0.02], 130)))[::-1].tolist()
        shown = {"boxes": [boxes[k] for k in order], "labels": [labels[k] for k in order], "scores": scores}
        rows.append({**row, **shown})
    return rows


def cut(rows: Rows, most: int, above: float) -> Rows:
    """The best of each image: the rows are in order of score."""
    counts = [min(most, sum(score > np.float32(above) for score in row["scores"])) for row in rows]
    return [
        {name: value[:count] if isinstance(value, list) else value for name, value in row.items()}
        for row, count in zip(rows, counts, strict=True)
    ]


@pytest.mark.parametrize("own", [Limits(), Limits(score_threshold=0.2, max_detections=20), Limits(max_detections=120)])
def test_a_protocol_sees_what_it_needs_and_what_the_detector_was_set_to(
    tmp_path: Path, dataset: Manifest, many: Rows, own: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_IMAGES", 20)
    monkeypatch.setattr(module, "each", backwards)
    prediction = write(tmp_path, dataset, many, own=own)
    found = assess(prediction, Selection(folder=dataset.folder), PROTOCOLS)
    expected = whole(dataset, cut(many, max(100, own.max_detections), 0.05))
    everything = whole(dataset, many)
    for protocol in PROTOCOLS:
        assert_same(found[protocol], expected[protocol])
        assert not np.array_equal(expected[protocol].ap, everything[protocol].ap, equal_nan=True)


def test_a_detector_that_was_set_to_more_is_scored_on_more(tmp_path: Path, dataset: Manifest, many: Rows) -> None:
    prediction = write(tmp_path, dataset, many, own=Limits(score_threshold=0.0, max_detections=1000))
    assert_all_same(assess(prediction, Selection(folder=dataset.folder), PROTOCOLS), whole(dataset, many), least=0)


def test_lvis_sees_detections_beside_coco_that_coco_does_not(tmp_path: Path, dataset: Manifest, many: Rows) -> None:
    space = replace(
        dataset.space,
        classes=tuple(replace(c, frequency=f) for c, f in zip(dataset.space.classes, "rcfc", strict=True)),
    )
    grouped = replace(dataset, space=space).save(str(shutil.copytree(dataset.folder, tmp_path / "grouped")))
    prediction = write(tmp_path / "found", grouped, many)
    found = assess(prediction, Selection(folder=grouped.folder), ("coco", "lvis"))
    few = assess(
        write(tmp_path / "few", grouped, cut(many, 100, 0.05)), Selection(folder=grouped.folder), ("coco", "lvis")
    )
    assert_same(found["coco"], few["coco"])
    assert found["lvis"].metrics["AP"] > few["lvis"].metrics["AP"]


def test_what_protocols_need_together(dataset: Manifest) -> None:
    def space(classes: int) -> LabelSpace:
        return LabelSpace(name="s", classes=tuple(Class(name=str(k), source_id=str(k)) for k in range(classes)))

    few, lvis_needs = Limits(), Limits(score_threshold=1e-4, candidates=10_000, max_detections=300)
    assert needed([(dataset, PROTOCOLS)], space(4)) == few
    assert needed([(dataset, ("coco",)), (dataset, ("voc", "lvis"))], space(4)) == lvis_needs
    # the other classes of a detector of many take places among an image's detections
    assert needed([(dataset, ("coco",))], space(81)) == lvis_needs
    nothing = dict.fromkeys(dataset.splits, (0,) * 365)
    larger = replace(dataset, space=space(365), image_counts=nothing, instance_counts=nothing)
    for protocol in PROTOCOLS:
        assert needed([(larger, (protocol,))], space(4)) == lvis_needs


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
