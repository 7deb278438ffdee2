"""From files to numbers: published truth and files of detections, through the readers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xray_det.data.formats.detections import read_detections
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation import coco, open_images, published
from xray_det.evaluation.identity import align

Make = Callable[..., Any]


def test_coco_files_with_scattered_ids_equal_pycocotools(
    tmp_path: Path, crowded_scene: Make, coco_documents: Make, pycocotools_says: Make
) -> None:
    """Ids neither in order nor from 1; what the reader makes of widths must not move a box over an area limit."""
    compared = 0
    for seed in range(0, 40, 3):
        truth, detected = crowded_scene(seed)
        if not len(detected) or not len(truth.label):
            continue
        document, found = coco_documents(truth, detected)
        images = {row: 7 * row + 3 for row in range(6)}  # in the same order: it decides between equal scores
        categories = {1: 20, 2: 30, 3: 90}
        for image in document["images"]:
            image |= {"id": images[image["id"]], "file_name": f"{image['id']}.jpg"}
        for category in document["categories"]:
            category["id"] = categories[category["id"]]
        for row in [*document["annotations"], *found]:
            row |= {"image_id": images[row["image_id"]], "category_id": categories[row["category_id"]]}
        document["images"].reverse()
        (tmp_path / "truth.json").write_text(json.dumps(document))
        (tmp_path / "found.json").write_text(json.dumps(found))
        read, source = published.read_truth([tmp_path / "truth.json"])
        aligned, notes = align(read_detections(tmp_path / "found.json"), read)
        assert (source.format, notes) == ("coco", [])
        assert list(coco.evaluate(read, aligned).metrics.values()) == pycocotools_says(truth, detected).stats.tolist()
        compared += 1
    assert compared > 10


@pytest.fixture
def challenge(tmp_path: Path, shared_data: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The unit case of a Challenge CSV, in its two files."""
    case = json.loads((shared_data / "metric_refs/oid_unit_cases.json").read_text())["csv_semantics"]
    header, *rows = case["groundtruth_rows"]
    boxes = [row[:7] for row in rows if row[2] is not None]
    labels = [[row[0], row[1], row[7]] for row in rows if row[7] is not None]
    files = []
    for name, columns, part in (
        ("boxes.csv", header[:7], boxes),
        ("labels.csv", ["ImageID", "LabelName", "Confidence"], labels),
    ):
        files.append(tmp_path / name)
        files[-1].write_text("\n".join(",".join(map(str, row)) for row in [columns, *part]) + "\n")
    return files[0], files[1], case


def test_a_challenges_csv_means_what_the_official_tool_makes_of_it(challenge: tuple[Path, Path, Any]) -> None:
    boxes, labels, case = challenge
    truth, source = published.read_truth([boxes])
    truth = published.add_image_labels(truth, labels)
    assert (source.format, truth.normalized, truth.exhaustive) == ("open_images", True, False)
    assert truth.boxes[:, [1, 0, 3, 2]].tolist() == case["expected_boxes_yxyx"]
    assert truth.has(BoxFlag.GROUP_OF).astype(int).tolist() == case["expected_group_of"]
    names = [truth.space.classes[label].source_id for label in truth.verified[:, 1]]
    assert sorted(names) == sorted(case["expected_verified_labels"])
    assert {truth.space.classes[row[1]].source_id for row in truth.verified if row[2] == 0} == {"/m/083vt"}


def test_image_labels_bring_images_and_classes_without_boxes(tmp_path: Path, challenge: tuple[Path, Path, Any]) -> None:
    truth, _ = published.read_truth([challenge[0]])
    (tmp_path / "more.csv").write_text("ImageID,LabelName,Confidence\n000aa,/m/new,0\n000aa,/m/02gy9n,1\n")
    more = published.add_image_labels(truth, tmp_path / "more.csv")
    assert more.image_ids == ("000aa", "fe58ec1b06db2bb7")
    assert more.image.tolist() == [1, 1]  # the boxes went with their image
    assert [c.source_id for c in more.space.classes[: len(truth.space)]] == [c.source_id for c in truth.space.classes]
    new, old = more.space.row_of_id["/m/new"], more.space.row_of_id["/m/02gy9n"]
    assert sorted(more.verified.tolist()) == sorted([[0, new, 0], [0, old, 1]])


def test_a_hierarchy_brings_the_ancestors_that_no_box_names(tmp_path: Path, challenge: tuple[Path, Path, Any]) -> None:
    truth, _ = published.read_truth([challenge[0]])
    tree = {
        "LabelName": "/m/root",
        "Subcategory": [
            {"LabelName": "/m/top", "Subcategory": [{"LabelName": "/m/02gy9n"}]},
            {"LabelName": "/m/04bcr3"},
        ],
    }
    (tmp_path / "tree.json").write_text(json.dumps(tree))
    truth, ancestors = published.add_hierarchy(truth, published.read_hierarchy(tmp_path / "tree.json"))
    top, leaf = truth.space.row_of_id["/m/top"], truth.space.row_of_id["/m/02gy9n"]
    assert np.argwhere(ancestors).tolist() == [[leaf, top]]
    expanded = open_images.expand(truth, ancestors)
    assert expanded.label.tolist().count(top) == 1
    other = {"LabelName": "/m/other", "Subcategory": [{"LabelName": "/m/another"}]}
    (tmp_path / "tree.json").write_text(json.dumps(tree | {"Subcategory": [other]}))
    with pytest.raises(InputError, match="no class"):
        published.add_hierarchy(truth, published.read_hierarchy(tmp_path / "tree.json"))


def test_other_files_are_no_image_labels(tmp_path: Path, challenge: tuple[Path, Path, Any]) -> None:
    truth, _ = published.read_truth([challenge[0]])
    with pytest.raises(InputError, match="no such file"):
        published.add_image_labels(truth, tmp_path / "none.csv")
    with pytest.raises(InputError, match="no table of image-level labels"):
        published.add_image_labels(truth, challenge[0])
