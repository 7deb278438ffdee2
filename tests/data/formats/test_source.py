"""Formats told by layout, and what is said where there is none."""

import json
from pathlib import Path

import pytest

from xray_det.data.formats.source import open_source
from xray_det.errors import InputError


@pytest.mark.parametrize(
    ("path", "format", "images", "boxes", "classes"),
    [
        ("raccoon", "voc", 85, 90, 1),
        ("bccd", "voc", 212, 2895, 3),
        ("fod_a", "voc", 442, 451, 31),
        ("playing_cards", "voc", 46, 78, 6),
        ("voc2012_100", "voc", 100, 273, 20),
        ("coco_tiny", "coco", 38, 424, 80),
        ("coco_tiny/format_fixtures/coco_sample.json", "coco", 3, 3, 2),
        ("taco_annotations", "coco", 1500, 4784, 60),
        ("wider_pedestrian/val.json", "coco", 5000, 20052, 1),
        ("real_defects/taco_unofficial_slice.json", "coco", 18, 124, 60),
        ("real_defects/helmet", "voc", 10, 69, 2),
        ("real_defects/blood_old", "voc", 3, 11, 1),
        ("open_images/challenge_sample", "open_images", 700, 7369, 500),
        ("open_images/gt_sample", "open_images", 3520, 36191, 497),
        ("open_images/format_fixtures/mmdet", "open_images", 1, 1, 1),
        ("open_images/format_fixtures/datumaro/v5", "open_images", 2, 0, 2),
        ("open_images/format_fixtures/datumaro/v6", "open_images", 4, 2, 4),
        ("city_persons/val_gt.json", "coco", 500, 5795, 6),
    ],
)
def test_real_datasets_open_by_their_path_alone(
    shared_data: Path, path: str, format: str, images: int, boxes: int, classes: int
) -> None:
    source = open_source(shared_data / path)
    assert source.format == format
    batches = list(source.batches(500))
    assert sum(batch.num_rows for batch in batches) == images
    assert sum(len(batch.column("labels").flatten()) for batch in batches) == boxes
    assert len(source.space) == classes
    assert all(len(set(batch.column("image_id").to_pylist())) == batch.num_rows for batch in batches)


def test_files_may_be_given_one_by_one(shared_data: Path) -> None:
    folder = shared_data / "open_images"
    source = open_source(
        [
            folder / "challenge_sample/annotations-bbox_expanded.csv",
            folder / "challenge-2019-label500-hierarchy.json",
            folder / "class-descriptions-boxable.csv",
        ],
        images=False,
    )
    assert source.format == "open_images"
    assert len(source.space) == 601
    assert source.hierarchy is not None
    assert not any(len(batch.column("verified_positive").flatten()) for batch in source.batches())


def test_a_folder_of_two_formats_must_be_told(shared_data: Path) -> None:
    with pytest.raises(InputError, match=r"several formats: coco \(taco_unofficial_slice\.json\); voc"):
        open_source(shared_data / "real_defects")
    assert open_source(shared_data / "real_defects", "voc").format == "voc"
    assert open_source(shared_data / "real_defects", "coco").format == "coco"


def test_paths_and_formats_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_source(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no path given"):
        open_source([])
    (tmp_path / "notes.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "project.xml").write_text("<project/>")
    with pytest.raises(InputError, match="no dataset found"):
        open_source(tmp_path)
    with pytest.raises(InputError, match="'yolo' is not one of auto, coco, lvis, open_images, voc"):
        open_source(tmp_path, "yolo")
    for format in ("coco", "open_images", "voc"):
        with pytest.raises(InputError, match=str(tmp_path)):
            open_source(tmp_path, format)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.json", '{"images": [', "the JSON is cut off in 'images', after 0 elements"),
        ("a.json", '{"categories": []}', "it has no 'images'"),
        ("a.json", "[]", "the JSON is no object"),
        ("a.csv", "a,b,c,d\n1,2,3,4\n", "the header is 'a,b,c,d'"),
        ("a.csv", "ImageID;LabelName;XMin;XMax;YMin;YMax\n", "the header is 'ImageID;LabelName;"),
        ("a.xml", "<project/>", "no VOC annotation"),
    ],
)
def test_a_file_that_is_named_is_told_what_is_wrong_with_it(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=problem):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("path", "image"),
    [
        ("coco_tiny/annotations", "train2017/000000397133.jpg"),
        ("coco_tiny/annotations/instances_train2017.json", "train2017/000000397133.jpg"),
        ("raccoon/annotations", "images/raccoon-1.jpg"),
        ("bccd/Annotations", "JPEGImages/BloodImage_00002.jpg"),
        ("bccd/../raccoon/annotations/raccoon-1.xml", "images/raccoon-1.jpg"),
    ],
)
def test_an_annotation_folder_or_file_finds_the_images_beside_it(shared_data: Path, path: str, image: str) -> None:
    source = open_source(shared_data / path)
    assert source.name in ("coco_tiny", "raccoon", "bccd")
    assert next(iter(source.batches())).column("path")[0].as_py() == image


def test_what_a_source_spilled_goes_with_it(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = open_source(shared_data / "raccoon")
    assert list(tmp_path.iterdir())
    del source
    assert not list(tmp_path.iterdir())
