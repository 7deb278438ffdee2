"""COCO and Objects365 JSON against json.load and loops, with one bucket and with many."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from rows_of import box_rows, rows_of

from xray_det.data.formats import coco, json_stream
from xray_det.data.formats.coco import CocoSource
from xray_det.data.formats.source import open_source
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


def test_text_ids_of_one_number_are_two(tmp_path: Path) -> None:
    """As are their annotations, whatever other ids stand beside them."""
    images = [{**IMAGE, "id": "007"}, {**IMAGE, "id": "7", "file_name": "b.jpg"}]
    boxes = [{**BOX, "image_id": "7"}, {**BOX, "image_id": "007"}, {**BOX, "image_id": 7}]
    for more in ([], [{**IMAGE, "id": "x"}]):
        found = rows_of(CocoSource(write(tmp_path / "a.json", images=images + more, annotations=boxes), images=False))
        assert [len(found[key]["boxes"]) for key in ("007", "7")] == [1, 2]


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


@pytest.mark.parametrize("said", ["", "<html>", "[]", '{"categories": []}'])
def test_a_damaged_split_beside_a_whole_one_is_not_left_out(tmp_path: Path, said: str) -> None:
    write(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "annotations" / "instances_val2017.json").write_text(said)
    with pytest.raises(InputError, match=r"instances_val2017\.json: "):
        open_source(tmp_path, images=False)


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


def folder_of(root: Path, images: list[str], document: dict[str, Any], json_name: str = "train.json") -> CocoSource:
    """A dataset of these image files (64 x 48 pixels, each different) and this JSON, opened."""
    for number, name in enumerate(images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (number * 9 % 256, 0, 0)).save(root / name, "PNG")
    write(root / json_name, **document)
    return CocoSource(root)


def listed(*names: str, **fields: Any) -> dict[str, Any]:
    """Images of these names with ids from 1, and a box in each."""
    images = [{"id": n, "file_name": name, "width": 64, "height": 48} | fields for n, name in enumerate(names, 1)]
    return {"images": images, "annotations": [BOX | {"id": n, "image_id": n} for n in range(1, len(names) + 1)]}


@pytest.mark.parametrize(
    ("on_disk", "published"),
    [
        ("images/x.png", "https://host.example/bucket/x.png"),
        ("images/x.png", "s3://bucket/some/folder/x.png"),
        ("images/x.png", "https://host.example/x.png?X-Amz-Date=2024&sig=a/b.png#c"),
        ("images/x.png", "http://localhost:8080/data/upload/1/x.png"),
        ("images/x.png", "/data/upload/12/x.png"),
        ("images/x.png", "images\\\\1/x.png".replace("\\\\", "\\")),
        ("images/x.png", "images/1/x.png"),
        ("images/a/x.png", "/data/local-files/?d=images/a/x.png"),
        ("images/a/x.png", "/data/local-files/?d=home/me/images/a/x.png"),
        ("images/a b.png", "/data/local-files/?d=images/a%20b.png"),
        ("images/a b.png", "/data/local-files/?d=images%5Ca%20b.png"),
        ("images/a b.png", "images/a%20b.png"),
        ("images/a b.png", "https://host.example/a%20b.png"),
        ("images/caf\u00e9.png", "https://host.example/caf%C3%A9.png"),
    ],
)
def test_names_that_labelling_tools_write_are_found_and_counted(tmp_path: Path, on_disk: str, published: str) -> None:
    (row,) = rows_of(folder_of(tmp_path, [on_disk], listed(published), "result.json")).values()
    assert row["path"] == on_disk
    assert row["defects"] == [f"wrong_file_name: {published} lies at {on_disk}"]


@pytest.mark.parametrize(
    "published", ["https://host.example/b/IMG_0002.png?x=1", "images/7/IMG_0002.png", "/data/upload/3/IMG%5F0002.png"]
)
def test_of_a_labelling_tools_name_too_the_most_similar_file_is_said(tmp_path: Path, published: str) -> None:
    (row,) = rows_of(folder_of(tmp_path, ["images/IMG_0001.png"], listed(published))).values()
    said = f"missing_image: {published}; the most similar name there is images/IMG_0001.png"
    assert row["defects"] == [said]


def test_a_name_as_it_is_published_goes_before_what_it_may_mean(tmp_path: Path) -> None:
    names = ["images/a%20b.png", "images/1/x.png"]
    source = folder_of(tmp_path, [*names, "images/a b.png", "images/x.png"], listed(*names))
    assert [(row["path"], row["defects"]) for row in rows_of(source).values()] == [(name, []) for name in names]


def test_two_names_that_may_mean_one_file_are_refused(tmp_path: Path) -> None:
    source = folder_of(tmp_path, ["images/x.png"], listed("https://a.example/1/x.png", "https://a.example/2/x.png"))
    with pytest.raises(InputError, match=r"neither 'https://a.example/1/x.png' nor .* both may mean images/x.png"):
        rows_of(source)


@pytest.mark.parametrize(
    "name", ["https://a.example/gone.png", "images/2/gone.png", "https://a.example", "s3://b/..%2Fgone"]
)
def test_an_address_that_leads_nowhere_is_a_missing_image(tmp_path: Path, name: str) -> None:
    (row,) = rows_of(folder_of(tmp_path, ["images/x.png"], listed(name))).values()
    assert (row["path"], row["defects"]) == (None, [f"missing_image: {name}"])


def test_cvats_subsets_lie_in_folders_of_their_names(tmp_path: Path) -> None:
    """Each file numbers its images from 1 and calls them alike."""
    for site in ("Site_A", "Site_B"):
        write(tmp_path / f"annotations/instances_{site}.json", **listed("Data/p0.jpg", "Data/p1.jpg"))
        for name in ("p0.jpg", "p1.jpg"):
            (tmp_path / f"images/{site}/Data").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48)).save(tmp_path / f"images/{site}/Data/{name}")
    found = rows_of(CocoSource(tmp_path))
    assert {key: row["path"] for key, row in found.items()} == {
        f"{site}/{n + 1}": f"images/{site}/Data/p{n}.jpg" for site in ("Site_A", "Site_B") for n in (0, 1)
    }
    assert {row["split"] for row in found.values()} == {None}


def test_two_subsets_of_one_split_stay_apart(tmp_path: Path) -> None:
    for site in ("a_train", "b_train"):
        write(tmp_path / f"annotations/instances_{site}.json", **listed("p.jpg"))
        (tmp_path / f"images/{site}").mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(tmp_path / f"images/{site}/p.jpg")
    found = rows_of(CocoSource(tmp_path))
    assert {key: (row["path"], row["split"]) for key, row in found.items()} == {
        "a_train/1": ("images/a_train/p.jpg", "train"),
        "b_train/1": ("images/b_train/p.jpg", "train"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "train.json",
        "_annotations.coco.json",
        "result.json",
        "labels.json",
        "annotations/instances_default.json",
        "a.JSON",
    ],
)
@pytest.mark.parametrize("lies", ["x.png", "data/x.png", "images/x.png", "train/images/x.png"])
def test_one_json_of_any_name(tmp_path: Path, name: str, lies: str) -> None:
    (row,) = rows_of(folder_of(tmp_path, [lies], listed("x.png"), name)).values()
    assert row["path"] == lies


def test_roboflows_root_of_a_classs_name_is_told_apart(tmp_path: Path) -> None:
    root = {"id": 0, "name": "fish", "supercategory": "none"}
    fish = {"id": 3, "name": "fish", "supercategory": "fish"}
    for split in ("train", "valid", "test"):
        write(tmp_path / split / "_annotations.coco.json", categories=[root, fish])
        Image.new("RGB", (10, 8)).save(tmp_path / split / "a.jpg")
    source = CocoSource(tmp_path)
    assert [(c.source_id, c.name) for c in source.space.classes] == [("0", "fish (id 0)"), ("3", "fish")]
    found = rows_of(source)
    assert sorted((row["split"], *row["labels"]) for row in found.values()) == [("test", 1), ("train", 1), ("val", 1)]
    # a root of another name stays as published; one that has a box is a class like others
    other = CocoSource(write(tmp_path / "o.json", categories=[root | {"name": "sea"}, fish | {"supercategory": "sea"}]))
    assert other.space.names == ("sea", "fish")
    with pytest.raises(InputError, match="two classes share the name 'fish'"):
        CocoSource(write(tmp_path / "x.json", categories=[root, fish], annotations=[BOX, BOX | {"category_id": 0}]))


TRIANGLE = [[10, 5, 30.5, 5, 20, 25]]


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        (TRIANGLE, [10, 5, 30.5, 25]),
        ([*TRIANGLE, [1, 40, 3, 40, 3, 44]], [1, 5, 30.5, 44]),
        (TRIANGLE[0], [10, 5, 30.5, 25]),
        ({"size": [48, 64], "counts": [48 * 2 + 3, 5, 43, 5, 48 * 64 - 152]}, [2, 3, 4, 8]),
        ({"size": [4, 4], "counts": [3, 3, 10]}, [0, 0, 2, 4]),
    ],
)
@pytest.mark.parametrize("missing", ["absent", "null"])
def test_without_a_box_the_segmentations_is_taken_and_counted(
    tmp_path: Path, segmentation: Any, box: list[float], missing: str
) -> None:
    bare = {"id": 2, "image_id": 1, "category_id": 3, "segmentation": segmentation}
    bare |= {} if missing == "absent" else {"bbox": None}
    plain = {"images": [IMAGE, IMAGE | {"id": 2}], "annotations": [BOX, bare, BOX | {"image_id": 2}]}
    found = rows_of(CocoSource(write(tmp_path / "x.json", **plain), images=False))
    assert (found["1"]["boxes"], found["1"]["flags"]) == ([[1, 2, 4, 6], box], [0, 0])
    assert found["1"]["defects"] == ["from_segmentation: 1 of 2 boxes"]
    assert found["2"]["defects"] == []


def test_masks_as_pycocotools_writes_them_have_its_boxes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes, annotations = [], []
    for number in range(200):
        drawn = np.zeros((17, 13), np.uint8, order="F")
        rows, columns = rng.integers(0, 17, 3), rng.integers(0, 13, 3)
        drawn[rows, columns] = 1
        drawn[: rng.integers(1, 9) * (number % 2), : rng.integers(1, 9)] = 1
        ys, xs = np.nonzero(drawn)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        packed = mask.encode(drawn)
        text = {"size": packed["size"], "counts": packed["counts"].decode()}
        annotations.append({"id": number, "image_id": 1, "category_id": 3, "segmentation": text})
    (row,) = rows_of(CocoSource(write(tmp_path / "x.json", annotations=annotations), images=False)).values()
    np.testing.assert_array_equal(row["boxes"], boxes)


@pytest.mark.parametrize(
    "segmentation",
    [
        *([], None, [[]], [[1, 2, 3]], [["a", "b"]], {"counts": "x"}, {"size": [4, 4], "counts": [16]}, "text", 7),
        *([[1, 2, 3], [4]], {"size": [4, 4], "counts": [2, 100]}, {"size": [4, 4], "counts": [9, -4, 5]}),
        *({"size": [4, 4], "counts": [1.5, 2]}, {"size": [4], "counts": [2, 2]}),
    ],
)
def test_an_annotation_without_box_and_segmentation_is_named(tmp_path: Path, segmentation: Any) -> None:
    bare = {"id": 2, "image_id": 1, "category_id": 3, "segmentation": segmentation}
    with pytest.raises(InputError, match=r"x\.json: annotations\[1\]: it has no bbox"):
        CocoSource(write(tmp_path / "x.json", annotations=[BOX, bare]), images=False)
    with pytest.raises(InputError, match=r"annotations\[0\]: it has no bbox"):
        CocoSource(write(tmp_path / "x.json", annotations=[{"image_id": 1, "category_id": 3}]), images=False)


def test_a_segmentation_that_is_not_finite_is_kept_for_the_doctor(tmp_path: Path) -> None:
    """As a box is that is not."""
    bare = {"id": 2, "image_id": 1, "category_id": 3, "segmentation": [[1, 2, float("nan"), 3, 4, 5]]}
    (row,) = rows_of(CocoSource(write(tmp_path / "x.json", annotations=[BOX, bare]), images=False)).values()
    assert str(row["boxes"][1]) == "[nan, 2.0, nan, 5.0]"
    assert row["defects"] == ["from_segmentation: 1 of 2 boxes"]


def test_a_segmentation_beside_an_infinite_box(tmp_path: Path) -> None:
    """Such a window is decoded in another way."""
    far = BOX | {"bbox": [float("inf"), 0, 1, 1], "segmentation": TRIANGLE}
    bare = {"id": 2, "image_id": 1, "category_id": 3, "segmentation": TRIANGLE}
    (row,) = rows_of(CocoSource(write(tmp_path / "x.json", annotations=[far, bare]), images=False)).values()
    assert row["boxes"][1] == [10, 5, 30.5, 25]


def doubts_of(tmp_path: Path, boxes: list[list[float]], **fields: Any) -> list[list[str]]:
    """Kinds of defect of images of 64 x 48 pixels with these boxes, one each, in two windows and two buckets."""
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} | fields for n in range(len(boxes) + 1)]
    annotations = [BOX | {"image_id": n, "bbox": box} for n, box in enumerate(boxes)]
    file = write(tmp_path / "x.json", images=images, annotations=annotations)
    found = rows_of(CocoSource(file, images=False))
    kinds = [
        [note.partition(":")[0] for note in row["defects"]] for _, row in sorted(found.items(), key=lambda i: int(i[0]))
    ]
    assert kinds.pop() == []  # the image without a box
    return kinds


def test_boxes_that_are_all_fractions_are_a_finding_of_each_image(tmp_path: Path) -> None:
    assert doubts_of(tmp_path, [[0.1, 0.2, 0.4, 0.5], [0, 0, 1, 1]]) == [["fractions"]] * 2
    assert doubts_of(tmp_path, [[0.1, 0.2, 0.4, 0.5], [0.5, 0.5, 2, 1]]) == [[]] * 2  # a small one among others
    assert doubts_of(tmp_path, [[0, 0, 0, 0], [0, 0, 0, 0]]) == [[]] * 2
    assert doubts_of(tmp_path, []) == []


def test_boxes_that_fit_as_corners_alone_are_a_suspicion(tmp_path: Path) -> None:
    corners = [[10, 10, 60, 40], [5, 20, 64, 48], [1, 2, 30, 20]]
    assert doubts_of(tmp_path, corners) == [["corners"]] * 3
    assert doubts_of(tmp_path, [*corners, [30, 30, 5, 5]]) == [[]] * 4  # no corner lies left of the other
    assert doubts_of(tmp_path, [*corners, [10, 10, 90, 40]]) == [[]] * 4  # as corners it reaches outside too
    assert doubts_of(tmp_path, [[1, 1, 64, 48], [0, 0, 64, 48]]) == [[]] * 2  # whole images, counted from 1
    assert doubts_of(tmp_path, corners, width=None, height=None) == [[]] * 3  # nothing to say it by


def test_the_doubts_hold_over_windows_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream.stream_arrays, "__defaults__", (64,))
    assert doubts_of(tmp_path, [[0.1, 0.2, 0.4, 0.5]] * 9) == [["fractions"]] * 9
    assert doubts_of(tmp_path, [*[[0.1, 0.2, 0.4, 0.5]] * 9, [7, 7, 7, 7]]) == [[]] * 10
    assert doubts_of(tmp_path, [[7, 7, 7, 7], *[[0.1, 0.2, 0.4, 0.5]] * 9]) == [[]] * 10
    write(tmp_path / "val.json", images=[IMAGE | {"id": 77}], annotations=[BOX | {"image_id": 77}])
    write(tmp_path / "x.json", annotations=[BOX | {"bbox": [0.1, 0.2, 0.4, 0.5]}])
    found = rows_of(CocoSource(tmp_path, images=False))
    assert {key: len(row["defects"]) for key, row in found.items()} == {"77": 0, "1": 1}


def test_ids_as_text_and_as_numbers_are_one_and_what_is_left_out_is_not_missed(tmp_path: Path) -> None:
    images = [{"id": "1", "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg", "width": None, "height": 0}]
    boxes = [BOX | {"category_id": "3"}, BOX | {"image_id": "2", "category_id": 3}]
    found = rows_of(CocoSource(write(tmp_path / "x.json", images=images, annotations=boxes), images=False))
    assert {key: (row["labels"], row["width"], row["height"]) for key, row in found.items()} == {
        "1": ([0], None, None),
        "2": ([0], None, None),
    }


@pytest.mark.parametrize("packed", ["annotations/instances_train.json.gz", "d.zip", "d.tar", "annotations.7z"])
def test_archives_are_to_be_unpacked(tmp_path: Path, packed: str) -> None:
    (tmp_path / packed).parent.mkdir(exist_ok=True)
    (tmp_path / packed).write_bytes(b"PK")
    for path in (tmp_path, tmp_path / packed):
        with pytest.raises(InputError, match="it is packed") as caught:
            open_source(path)
        assert caught.value.where == str(tmp_path / packed)
        assert "Unpack" in caught.value.remedy


@pytest.mark.parametrize("name", ["/home/me/proj/images/x.png", "C:\\me\\images\\x.png", "../../media/upload/x.png"])
def test_a_name_that_leaves_is_refused_with_the_file_it_may_mean(tmp_path: Path, name: str) -> None:
    source = folder_of(tmp_path, ["images/x.png"], listed(name))
    with pytest.raises(InputError, match="leaves the dataset's folder") as caught:
        rows_of(source)
    assert caught.value.remedy == "Write 'images/x.png' if that is the image"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    file = write(tmp_path / "train.json")
    file.write_bytes(("\ufeff" + file.read_text()).encode(encoding))
    for path in (tmp_path, file):
        with pytest.raises(InputError, match=r"train\.json: is UTF-16. Save it as UTF-8"):
            open_source(path)


def test_a_packed_split_beside_others_is_not_left_out(tmp_path: Path) -> None:
    write(tmp_path / "annotations/instances_val.json")
    (tmp_path / "annotations/instances_val.json.gz").write_bytes(b"")  # unpacked already
    (tmp_path / "images.zip").write_bytes(b"")
    assert len(rows_of(CocoSource(tmp_path, images=False))) == 1
    (tmp_path / "annotations/instances_train.json.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"instances_train\.json\.gz: it is packed"):
        CocoSource(tmp_path, images=False)
    assert len(rows_of(CocoSource(tmp_path / "annotations/instances_val.json", images=False))) == 1  # asked for alone


FIELD: dict[str, tuple[int, int, set[str]]] = {
    "cvat_custom_subset": (4, 4, set()),
    "coco_fractions": (3, 3, {"fractions"}),
    "seg_only": (2, 2, {"from_segmentation"}),
    "roboflow_root_same_name": (9, 9, set()),
    "labelstudio_url": (3, 3, {"wrong_file_name"}),
    "deep_images": (13, 13, set()),
}


@pytest.mark.parametrize("name", FIELD)
def test_field_cases(shared_data: Path, name: str) -> None:
    images, boxes, kinds = FIELD[name]
    found = rows_of(CocoSource(shared_data / "field_cases" / name / "d"))
    assert (len(found), sum(len(row["boxes"]) for row in found.values())) == (images, boxes)
    assert all(row["path"] is not None for row in found.values())
    assert {note.partition(":")[0] for row in found.values() for note in row["defects"]} == kinds


def test_field_archives(shared_data: Path) -> None:
    for path in ("d", "d.zip", "d/annotations/instances_train.json.gz"):
        with pytest.raises(InputError, match="it is packed"):
            open_source(shared_data / "field_cases/gz_zip" / path)
