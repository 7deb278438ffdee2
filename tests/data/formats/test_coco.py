"""COCO and Objects365 JSON against json.load and loops, with one bucket and with many."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rows_of import box_rows, rows_of

from xray_det.data.formats import coco, json_stream
from xray_det.data.formats.coco import CocoSource
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 10, "height": 8}
BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}
CUP = {"id": 3, "name": "cup"}


def write(file: Path, **changed: Any) -> Path:
    """A small valid file, with some of its arrays changed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": [IMAGE], "annotations": [BOX], "categories": [CUP]} | changed))
    return file


def brute(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """image id -> (class name, x1, y1, x2, y2, flags) in the file's order."""
    data = json.loads(file.read_text())
    names = {c["id"]: c["name"].strip() for c in data["categories"]}
    boxes: dict[str, list[tuple[Any, ...]]] = {str(image["id"]): [] for image in data["images"]}
    for a in data["annotations"]:
        x, y, w, h = map(float, a["bbox"])
        flag = BoxFlag.CROWD * bool(a.get("iscrowd")) + BoxFlag.IGNORE * bool(a.get("ignore"))
        boxes[str(a["image_id"])].append((names[a["category_id"]], x, y, x + w, y + h, int(flag)))
    return boxes


REAL = [
    "coco_tiny/annotations/instances_train2017.json",
    "coco_tiny/annotations/instances_val2017.json",
    "coco_tiny/format_fixtures/coco_sample.json",
    "coco_tiny/format_fixtures/coco_wrong_format_sample.json",
    "voc2012_100/other_formats/coco_format_v1/instances_default.json",
    "voc2012_100/other_formats/coco_format_v2/instances_v2.json",
    "taco_annotations/annotations.json",
    "real_defects/taco_unofficial_slice.json",
    "wider_pedestrian/val.json",
]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("buckets", ["one", "many"])
def test_real_files_equal_a_plain_reading(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, buckets: str
) -> None:
    if buckets == "many":
        monkeypatch.setattr(coco, "_BUCKET_BYTES", 4096)
        monkeypatch.setattr(json_stream.stream_arrays, "__defaults__", (1000,))
    source = CocoSource(shared_data / name, images=False)
    expected = brute(shared_data / name)
    found = rows_of(source, rows=100)
    assert repr({key: box_rows(row, source.space.names) for key, row in found.items()}) == repr(
        {key: expected[key] for key in found}
    )
    assert set(found) == set(expected)
    if buckets == "one":
        assert list(found) == list(expected)  # published order
    assert all(row["path"] is None for row in found.values())


def test_areas_are_the_published_ones(shared_data: Path) -> None:
    file = shared_data / "coco_tiny/annotations/instances_train2017.json"
    areas = defaultdict(list)
    for annotation in json.loads(file.read_text())["annotations"]:
        areas[str(annotation["image_id"])].append(annotation["area"])
    found = rows_of(CocoSource(file, images=False))
    assert {key: row["area"] for key, row in found.items() if row["boxes"]} == areas
    assert [row["area"] for row in found.values() if not row["boxes"]] == [None, None]
    # a file without areas
    assert rows_of(CocoSource(shared_data / "wider_pedestrian/val.json", images=False), 500)["2"]["area"] is None


def test_coco_tiny_finds_its_images_and_splits(shared_data: Path) -> None:
    source = CocoSource(shared_data / "coco_tiny")
    found = rows_of(source)
    assert len(source.space) == 80
    assert source.space.classes[0].super_category == "person"
    assert sorted(row["split"] for row in found.values()) == ["train"] * 32 + ["val"] * 6
    for row in found.values():
        with Image.open(source.image_root / row["path"]) as image:
            assert image.size == (row["width"], row["height"])
            assert Path(row["path"]).parent.name == {"train": "train2017", "val": "val2017"}[row["split"]]


def test_objects365_fields(tmp_path: Path) -> None:
    boxes = [BOX | {"isfake": 1}, BOX | {"iscrowd": 1, "isfake": 0}, BOX | {"ignore": True, "iscrowd": 1.0}]
    names = [{"id": 9, "name": "Formula 1 "}, CUP]
    source = CocoSource(write(tmp_path / "train.json", annotations=boxes, categories=names), images=False)
    assert source.space.names == ("Formula 1", "cup")
    assert [c.source_id for c in source.space.classes] == ["9", "3"]
    (row,) = rows_of(source).values()
    assert row["flags"] == [BoxFlag.DEPICTION, BoxFlag.CROWD, BoxFlag.CROWD | BoxFlag.IGNORE]
    assert row["labels"] == [1, 1, 1]
    assert row["split"] == "train"


def test_a_category_that_no_list_has_is_refused(shared_data: Path) -> None:
    with pytest.raises(InputError, match=r"annotations\[5\].*unknown category 3"):
        rows_of(CocoSource(shared_data / "objects365/format_fixtures/unsorted_obj365_sample.json", images=False))


def test_ids_may_be_text_or_larger_than_64_bits(tmp_path: Path) -> None:
    ids: list[Any] = ["a", "b/c", 7, 10**30, "007"]
    images = [IMAGE | {"id": one} for one in ids]
    boxes = [BOX | {"image_id": one, "bbox": [k, 0, 1, 1]} for k, one in enumerate(reversed(ids))]
    found = rows_of(CocoSource(write(tmp_path / "x.json", images=images, annotations=boxes), images=False))
    assert {key: row["boxes"][0][0] for key, row in found.items()} == {
        str(one): float(4 - k) for k, one in enumerate(ids)
    }


def test_arrays_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "order.json"
    file.write_text(json.dumps({"annotations": [BOX], "categories": [CUP], "x": [[{}]], "images": [IMAGE]}))
    (row,) = rows_of(CocoSource(file, images=False)).values()
    assert row["boxes"] == [[1, 2, 4, 6]]


def test_image_ids_of_two_splits_that_collide_get_the_split_as_prefix(tmp_path: Path) -> None:
    write(tmp_path / "annotations/instances_train.json")
    write(tmp_path / "annotations/instances_val.json", images=[IMAGE | {"file_name": "b.jpg"}], annotations=[])
    found = rows_of(CocoSource(tmp_path, images=False))
    assert {key: (row["split"], len(row["boxes"])) for key, row in found.items()} == {
        "train/1": ("train", 1),
        "val/1": ("val", 0),
    }
    write(tmp_path / "annotations/instances_train_more.json")
    with pytest.raises(InputError, match="image id 1 stands in two"):
        CocoSource(tmp_path, images=False)


def test_the_same_image_listed_twice_counts_once_and_two_of_one_id_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", images=[IMAGE, IMAGE])
    assert len(rows_of(CocoSource(file, images=False))) == 1
    file = write(tmp_path / "x.json", images=[IMAGE, IMAGE | {"file_name": "b.jpg"}])
    with pytest.raises(InputError, match=r"x\.json: images: id 1 stands for 'a\.jpg' and for 'b\.jpg'"):
        rows_of(CocoSource(file, images=False))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"images": []}, "empty"),
        ({"annotations": [BOX | {"image_id": 2}]}, r"annotations\[0\]: it is of the unknown image 2"),
        ({"annotations": [BOX, BOX | {"category_id": 4}]}, r"annotations\[1\]: it is of the unknown category 4"),
        ({"categories": [CUP, CUP | {"id": 4}]}, "two classes share the name 'cup'"),
        ({"categories": [CUP, CUP | {"id": 4, "name": "cup "}]}, "two classes share the name 'cup'"),
        ({"categories": [CUP, CUP | {"name": "plate"}]}, "two classes share the source_id '3'"),
        ({"images": [IMAGE | {"file_name": "../a.jpg"}]}, r"'\.\./a\.jpg' leaves the dataset's folder"),
        ({"images": [IMAGE | {"file_name": "x/..\\a.jpg"}]}, "leaves the dataset's folder"),
        ({"images": [IMAGE | {"file_name": "/etc/a.jpg"}]}, "leaves the dataset's folder"),
        ({"images": [IMAGE | {"file_name": "C:\\a.jpg"}]}, "leaves the dataset's folder"),
        ({"annotations": [BOX | {"bbox": [1, 2, 3]}]}, r"annotations\[0\]\.bbox"),
        ({"annotations": [BOX | {"bbox": [1, 2, 3, "4"]}]}, "Expected `float`, got `str`"),
        ({"annotations": {}}, "annotations: it is no array"),
        ({"categories": None}, "categories: it is no array"),
    ],
)
@pytest.mark.parametrize("images", [True, False])
def test_bad_input_is_named(tmp_path: Path, changed: dict[str, Any], problem: str, images: bool) -> None:
    file = write(tmp_path / "bad.json", **changed)
    with pytest.raises(InputError, match=problem) as caught:
        rows_of(CocoSource(file, images=images))
    assert "bad.json" in caught.value.where


def test_a_file_cut_off_is_named_with_the_place(shared_data: Path, tmp_path: Path) -> None:
    raw = (shared_data / "taco_annotations/annotations.json").read_bytes()
    file = tmp_path / "half.json"
    file.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"half\.json: byte \d+: the JSON is cut off in 'annotations'"):
        CocoSource(file, images=False)


def test_classes_that_differ_between_splits_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "annotations/train.json")
    write(tmp_path / "annotations/val.json", images=[IMAGE | {"id": 2}], annotations=[], categories=[CUP | {"id": 5}])
    with pytest.raises(InputError, match="'cup' has the id 5, another file of the dataset says otherwise"):
        CocoSource(tmp_path, images=False)


def test_numbers_that_are_not_finite_are_kept_for_the_doctor(shared_data: Path) -> None:
    found = rows_of(CocoSource(shared_data / "real_defects/taco_unofficial_slice.json", images=False))
    boxes = np.array([box for row in found.values() for box in row["boxes"]])
    assert (~np.isfinite(boxes).all(axis=1)).sum() == 15


def test_rows_come_in_the_asked_size(shared_data: Path) -> None:
    source = CocoSource(shared_data / "taco_annotations", images=False)
    assert [batch.num_rows for batch in source.batches(400)] == [400, 400, 400, 300]
