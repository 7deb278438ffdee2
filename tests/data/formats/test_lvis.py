"""LVIS JSON against json.load and loops: the real class table, and lists made for real COCO images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows_of import box_rows, rows_of

from xray_det.data.formats import coco, json_stream
from xray_det.data.formats.source import open_source
from xray_det.errors import InputError
from xray_det.labels.space import LabelSpace
from xray_det.labels.unify import unify

ADDRESS = "http://images.cocodataset.org"
RARE = {"id": 3, "name": "cup", "frequency": "r", "synset": "cup.n.01", "synonyms": ["cup"], "def": "to drink from"}
COMMON = {"id": 7, "name": "bow_(weapon)", "frequency": "c"}
IMAGE = {"id": 1, "coco_url": f"{ADDRESS}/val2017/a.jpg", "neg_category_ids": [7], "not_exhaustive_category_ids": [3]}
BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9}


def document(**changed: Any) -> dict[str, Any]:
    """A small valid one, with some of its arrays changed."""
    return {"images": [IMAGE], "annotations": [BOX], "categories": [RARE, COMMON]} | changed


def write(file: Path, **changed: Any) -> Path:
    file.write_text(json.dumps(document(**changed)))
    return file


@pytest.fixture(scope="module")
def release(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits in the official order of keys: the 1203 real classes, the images and boxes of coco_tiny."""
    folder = tmp_path_factory.mktemp("lvis")
    (folder / "annotations").mkdir()
    classes = json.loads((shared_data / "lvis/lvis_v1_train_cat_info.json").read_text())
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / f"{split}2017").symlink_to(shared_data / f"coco_tiny/{split}2017")
        published = json.loads((shared_data / f"coco_tiny/annotations/instances_{split}2017.json").read_text())
        boxes = [
            {name: a[name] for name in ("id", "image_id", "bbox", "area")} | {"category_id": int(rng.integers(1, 1204))}
            for a in published["annotations"]
        ]
        images = []
        for image in published["images"]:
            held = {a["category_id"] for a in boxes if a["image_id"] == image["id"]}
            absent = [c for c in rng.integers(1, 1204, 5).tolist() if c not in held]
            open_ = [c for c in sorted(held) if rng.random() < 0.2]
            url = f"{ADDRESS}/{split}2017/{image['file_name']}"
            lists = {"neg_category_ids": absent, "not_exhaustive_category_ids": open_}
            images.append({name: image[name] for name in ("id", "width", "height")} | {"coco_url": url} | lists)
        (folder / f"annotations/lvis_v1_{split}.json").write_text(
            json.dumps({"info": {}, "annotations": boxes, "images": images, "licenses": [], "categories": classes})
        )
    return folder


@pytest.mark.parametrize("buckets", ["one", "many"])
def test_equals_a_plain_reading(release: Path, monkeypatch: pytest.MonkeyPatch, buckets: str) -> None:
    if buckets == "many":
        monkeypatch.setattr(coco, "_BUCKET_BYTES", 4096)
        monkeypatch.setattr(json_stream.stream_arrays, "__defaults__", (1000,))
    source = open_source(release)
    assert (source.format, source.exhaustive, source.hierarchy) == ("lvis", False, None)
    found = rows_of(source)
    names, listed = source.space.names, {"verified_negative": 0, "not_exhaustive": 0}
    for split in ("train", "val"):
        published = json.loads((release / f"annotations/lvis_v1_{split}.json").read_text())
        name_of = {c["id"]: c["name"] for c in published["categories"]}
        assert [(c.name, c.frequency) for c in source.space.classes] == [
            (c["name"], c["frequency"]) for c in published["categories"]
        ]
        for image in published["images"]:
            row = found.pop(str(image["id"]))
            boxes = [a for a in published["annotations"] if a["image_id"] == image["id"]]
            assert box_rows(row, names) == [
                (name_of[a["category_id"]], x, y, x + w, y + h, 0) for a in boxes for x, y, w, h in [a["bbox"]]
            ]
            for column, key in (
                ("verified_negative", "neg_category_ids"),
                ("not_exhaustive", "not_exhaustive_category_ids"),
            ):
                assert [names[label] for label in row[column]] == [name_of[c] for c in image[key]]
                listed[column] += len(row[column])
            assert row["verified_positive"] == []  # the boxes say it
            assert (row["split"], row["width"]) == (split, image["width"])
            assert (release / row["path"]).is_file()
    assert not found
    assert listed["verified_negative"] > 100
    assert listed["not_exhaustive"] > 10


def test_images_of_a_split_lie_in_the_folder_that_their_address_names(tmp_path: Path) -> None:
    """LVIS's validation holds images of COCO's train2017."""
    (tmp_path / "annotations").mkdir()
    addresses = ["train2017/a.jpg", "val2017/b.jpg", "val2017/a.jpg"]
    for address in addresses[:2]:
        (tmp_path / "images" / address).parent.mkdir(parents=True)
        (tmp_path / "images" / address).touch()
    images = [IMAGE | {"id": n, "coco_url": f"{ADDRESS}/{address}"} for n, address in enumerate(addresses)]
    write(tmp_path / "annotations/lvis_v1_val.json", images=images, annotations=[])
    rows = rows_of(open_source(tmp_path))
    assert [row["path"] for row in rows.values()] == ["images/train2017/a.jpg", "images/val2017/b.jpg", None]
    assert {row["split"] for row in rows.values()} == {"val"}


def test_a_frequency_may_be_missing_but_not_another(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", categories=[RARE, COMMON | {"frequency": None}])
    assert [c.frequency for c in open_source(file).space.classes] == ["r", None]
    with pytest.raises(InputError, match=r"categories: 'bow_\(weapon\)' has the frequency 12.*r, c, f"):
        open_source(write(file, categories=[RARE, COMMON | {"frequency": 12}]))
    plain = {"id": 1, "file_name": "a.jpg"}
    file = write(file, images=[plain], categories=[RARE | {"frequency": 12}])
    assert [c.frequency for c in open_source(file).space.classes] == [None]  # COCO JSON: no meaning there


def test_files_that_disagree_on_a_frequency_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.json")
    write(tmp_path / "val.json", images=[IMAGE | {"id": 2}], annotations=[], categories=[RARE | {"frequency": "f"}])
    with pytest.raises(InputError, match=r"val\.json: categories: 'cup' has the frequency f"):
        open_source(tmp_path)


def test_a_space_keeps_frequencies_as_json(tmp_path: Path) -> None:
    space = open_source(write(tmp_path / "x.json")).space
    assert LabelSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"annotations": [BOX, BOX | {"category_id": 7}]},
            r"annotations\[1\]: it is of category 7, which its image lists in neg_category_ids",
        ),
        (
            {"images": [IMAGE | {"neg_category_ids": [7, 99]}]},
            "image 1: neg_category_ids lists the unknown category 99",
        ),
        (
            {"images": [IMAGE, IMAGE | {"id": 5, "not_exhaustive_category_ids": ["8"]}]},
            "image 5: not_exhaustive_category_ids lists the unknown category 8",
        ),
        ({"images": [IMAGE, {"id": 4}]}, "image 4: it has no neg_category_ids"),
        (
            {"images": [{"id": 4, "not_exhaustive_category_ids": []}], "annotations": []},
            "4: it has no neg_category_ids",
        ),
        ({"images": [{"id": 4, "neg_category_ids": [3]}], "annotations": []}, "4: it has no not_exhaustive_category"),
        ({"images": [IMAGE | {"neg_category_ids": 7}]}, r"images\[0\]\.neg_category_ids: Expected `array"),
        ({"images": [IMAGE | {"coco_url": "http://x/../a.jpg"}]}, "leaves the dataset's folder"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        rows_of(open_source(write(tmp_path / "x.json", **changed)))


def test_the_format_that_is_named_must_be_the_files_own(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json")
    assert open_source(file, "lvis").format == "lvis"
    with pytest.raises(InputError, match="its format is lvis, not coco"):
        open_source(file, "coco")
    write(file, images=[{"id": 1, "file_name": "a.jpg"}], categories=[{"id": 3, "name": "cup"}])
    with pytest.raises(InputError, match="its format is coco, not lvis"):
        open_source(file, "lvis")


def test_underscores_in_names_are_blanks_where_classes_meet(release: Path, shared_data: Path) -> None:
    """LVIS writes baseball_bat. Of COCO's 80 classes all but two meet the right one: LVIS has no hot dog of that
    synset, and takes a potted plant for its pot."""
    lvis = open_source(release).space
    categories = json.loads((shared_data / "lvis/lvis_v1_train_cat_info.json").read_text())
    name_of_synset = {c["synset"]: c["name"] for c in categories}
    of_coco = json.loads((shared_data / "lvis/coco_to_synset.json").read_text())
    small = open_source(shared_data / "coco_tiny", images=False).space
    unified = unify({"coco": small, "lvis": lvis})
    row_of = dict(zip(unified.maps["lvis"].tolist(), lvis.names, strict=True))
    met = {name: row_of.get(row) for name, row in zip(small.names, unified.maps["coco"].tolist(), strict=True)}
    assert [name for name, other in met.items() if other is None] == ["hot dog", "potted plant"]
    assert all(name_of_synset[of_coco[name]["synset"]] == other for name, other in met.items() if other)


@pytest.mark.parametrize("format", ["auto", "coco", "lvis"])
def test_lviss_classes_over_images_without_lists_are_refused(tmp_path: Path, format: str) -> None:
    """Read as COCO, every class would count as absent wherever it has no box."""
    file = write(tmp_path / "x.json", images=[{"id": 1, "file_name": "a.jpg"}])
    with pytest.raises(InputError, match=r"x\.json: images: .* no image has neg_category_ids"):
        open_source(file, format)
    # a frequency that is no group of LVIS's says nothing
    write(file, images=[{"id": 1, "file_name": "a.jpg"}], categories=[RARE | {"frequency": 12}])
    assert open_source(file, "coco").format == "coco"


def test_one_image_without_lists_among_others_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.json", images=[IMAGE, {"id": 2, "file_name": "b.jpg"}])
    with pytest.raises(InputError, match="image 2: it has no neg_category_ids"):
        rows_of(open_source(file, images=False))


@pytest.mark.parametrize(
    ("on_disk", "json_name", "fields"),
    [
        # half of LVIS's validation images lie among COCO's training images
        ("train2017/000000000009.jpg", "lvis_v1_val.json", {"coco_url": f"{ADDRESS}/train2017/000000000009.jpg"}),
        ("images/train2017/9.jpg", "lvis_v1_val.json", {"coco_url": f"{ADDRESS}/train2017/9.jpg"}),
        ("coco/train2017/9.jpg", "coco/lvis_v1_val.json", {"coco_url": f"{ADDRESS}/train2017/9.jpg"}),
        ("val2017/9.jpg", "annotations/lvis_v1_val.json", {"coco_url": "https://mirror.example/coco/val2017/9.jpg"}),
        ("val2017/9.jpg", "lvis_v0.5_val.json", {"file_name": "9.jpg", "coco_url": f"{ADDRESS}/val2017/other.jpg"}),
        ("images/9.jpg", "minival.json", {"file_name": "images/9.jpg", "coco_url": None}),
    ],
)
def test_lviss_images_where_people_have_them(
    tmp_path: Path, on_disk: str, json_name: str, fields: dict[str, Any]
) -> None:
    for name in (on_disk, json_name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / on_disk).touch()
    image = {name: value for name, value in IMAGE.items() if name != "coco_url"} | fields
    source = open_source(write(tmp_path / json_name, images=[image]).parent)
    (row,) = rows_of(source).values()
    assert (source.root / row["path"], row["split"]) == (tmp_path / on_disk, "val")


@pytest.mark.parametrize(
    ("lists", "negative", "open_"),
    [
        (([], []), [], []),
        ((["7"], ["3"]), [1], [0]),
        (([7, 7], [3, 3]), [1, 1], [0, 0]),
        (([], [7]), [], [1]),  # of a class without a box here: more of them than are drawn
    ],
)
def test_lists_as_people_write_them(
    tmp_path: Path, lists: tuple[list[Any], list[Any]], negative: list[int], open_: list[int]
) -> None:
    image = IMAGE | dict(zip(("neg_category_ids", "not_exhaustive_category_ids"), lists, strict=True))
    source = open_source(write(tmp_path / "x.json", images=[image]), images=False)
    (row,) = rows_of(source).values()
    assert (source.format, row["verified_negative"], row["not_exhaustive"]) == ("lvis", negative, open_)
