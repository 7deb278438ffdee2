"""Images by published name, in the layouts in which COCO and Objects365 are unpacked."""

from pathlib import Path, PurePosixPath

import pytest

from xray_det.data.formats.image_finder import ImageFinder
from xray_det.data.formats.layout import inside, split_of, split_of_path
from xray_det.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("on_disk", "published", "split"),
    [
        ("train2017/1.jpg", "1.jpg", "train"),
        ("images/train2017/1.jpg", "1.jpg", "train"),
        ("images/1.jpg", "1.jpg", "train"),
        ("1.jpg", "1.jpg", None),
        ("val/images/1.jpg", "1.jpg", "val"),
        ("images/1.jpg", "images/1.jpg", "train"),
        # Objects365: the patch in the name, on disk, in both, in neither
        ("images/v1/patch8/o_1.jpg", "images/v1/patch8/o_1.jpg", "train"),
        ("train/images/v1/patch8/o_1.jpg", "images/v1/patch8/o_1.jpg", "train"),
        ("train/patch8/o_1.jpg", "images/v1/patch8/o_1.jpg", "train"),
        ("patch8/o_1.jpg", "images/v1/patch8/o_1.jpg", "train"),
        ("images/train/patch8/o_1.jpg", "o_1.jpg", "train"),
        ("images/train/o_1.jpg", "images/v1/patch8/o_1.jpg", "train"),
        # a folder that is part of the name
        ("batch_1/000006.jpg", "batch_1/000006.jpg", None),
        ("data/batch_1/000006.jpg", "batch_1/000006.jpg", None),
    ],
)
def test_found(tmp_path: Path, on_disk: str, published: str, split: str | None) -> None:
    touch(tmp_path, on_disk)
    finder = ImageFinder(tmp_path, [])
    for _ in range(2):  # the second look takes the short way
        assert finder.find(PurePosixPath(published), split, tmp_path) == on_disk


@pytest.mark.parametrize(
    ("on_disk", "published", "split"),
    [
        ("batch_2/000006.jpg", "batch_1/000006.jpg", None),  # another image
        ("images/000006.jpg", "batch_1/000006.jpg", None),
        ("val2017/1.jpg", "1.jpg", "train"),  # of another split
        ("images/1.jpg", "2.jpg", "train"),
        ("images/x", "", "train"),
    ],
)
def test_not_found(tmp_path: Path, on_disk: str, published: str, split: str | None) -> None:
    touch(tmp_path, on_disk)
    assert ImageFinder(tmp_path, []).find(PurePosixPath(published), split, tmp_path) is None


def test_two_splits_with_the_same_names_stay_apart(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/1.jpg", "train/2.jpg")
    finder = ImageFinder(tmp_path, [tmp_path])
    name = PurePosixPath("1.jpg")
    assert [finder.find(name, split, tmp_path) for split in ("train", "val", "train")] == [
        "train/1.jpg",
        "val/1.jpg",
        "train/1.jpg",
    ]
    assert finder.find(PurePosixPath("2.jpg"), "val", tmp_path) is None


@pytest.mark.parametrize(
    ("on_disk", "published"),
    [
        ("images/cafe\u0301 1.jpg", "café 1.jpg"),
        ("images/café 1.jpg", "cafe\u0301 1.jpg"),
        ("images/Gro\u0308\u00dfe/1.jpg", "Gr\u00f6\u00dfe/1.jpg"),
        ("images/IMG_1.JPG", "img_1.jpg"),
        ("images/img_1.jpg", "IMG_1.JPG"),
        ("images/my photo.jpg", "my%20photo.jpg"),
        ("train/A/1.jpg", "images/a/1.jpg"),
    ],
)
def test_names_that_copying_has_changed(tmp_path: Path, on_disk: str, published: str) -> None:
    touch(tmp_path, on_disk, "images/other.jpg")
    assert ImageFinder(tmp_path, []).find(PurePosixPath(published), "train", tmp_path) == on_disk


def test_a_name_too_long_for_a_file_is_none(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    finder = ImageFinder(tmp_path, [])
    for name in (PurePosixPath(f"{'x' * 300}.jpg"), PurePosixPath("x" * 300, "a.jpg")):
        assert finder.find(name, None, tmp_path) is None
        assert finder.most_similar(name, None, tmp_path) is None


def test_of_two_files_that_a_changed_name_may_mean_neither_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "images/IMG_1.jpg", "images/img_1.jpg", "images/A.jpg", "images/a.JPG")
    finder = ImageFinder(tmp_path, [])
    assert finder.find(PurePosixPath("img_1.jpg"), None, tmp_path) == "images/img_1.jpg"
    assert finder.find(PurePosixPath("Img_1.jpg"), None, tmp_path) is None
    assert finder.find(PurePosixPath("a.jpg"), None, tmp_path) is None


def test_the_most_similar_name_is_of_the_first_three(tmp_path: Path) -> None:
    touch(tmp_path, "train/IMG_0001.png", "val/IMG_1001.jpg")
    finder = ImageFinder(tmp_path, [])
    found = [finder.most_similar(PurePosixPath(f"IMG_100{k}.jpg"), "train", tmp_path) for k in range(4)]
    assert found == ["train/IMG_0001.png"] * 3 + [None]  # a folder of another split is not looked into


def test_an_annotation_file_beside_its_images(tmp_path: Path) -> None:
    touch(tmp_path, "kitchen/1.jpg", "hall/1.jpg")
    finder = ImageFinder(tmp_path, [tmp_path / "kitchen", tmp_path / "hall"])
    assert finder.find(PurePosixPath("1.jpg"), None, tmp_path / "hall") == "hall/1.jpg"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("zhiyuan_objv2_val", "val"),
        ("oidv6-train-annotations-bbox", "train"),
        ("validation-annotations-bbox", "val"),
        ("challenge-2019-validation-detection-bbox", "val"),
        ("trainval", "trainval"),
        ("test-dev2017", "test"),
        ("annotations", None),
        ("training_and_test", None),
        ("trained", None),
        ("latest", None),
    ],
)
def test_splits_in_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


def test_a_split_comes_from_the_file_before_its_folder() -> None:
    root = Path("/data/train_sets")
    assert split_of_path(root / "test/instances_val.json", root) == "val"
    assert split_of_path(root / "test/deep/labels.csv", root) == "test"
    assert split_of_path(root / "labels.csv", root) is None  # what lies above the root says nothing


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "C:/a", "a\\..\\b", "\\a", "..", "a\0b"])
def test_names_that_leave(name: str) -> None:
    with pytest.raises(InputError, match="leaves the dataset's folder"):
        inside(name, "here")


@pytest.mark.parametrize("name", ["a", "..a", "a..b/c..", "images/a b.jpg", "..."])
def test_names_that_stay(name: str) -> None:
    assert inside(name, "here") == PurePosixPath(name)
