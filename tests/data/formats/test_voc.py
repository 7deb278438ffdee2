"""VOC XML against a plain reading, and every place in which images are published."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rows_of import box_rows, rows_of

from xray_det.data.formats.voc import VocSource
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError

OBJECT = (
    "<object><name>cup</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax>"
    "<ymax>4</ymax></bndbox></object>"
)


def write(file: Path, objects: str = OBJECT, *, name: str = "", image: str | None = None, head: str = "") -> Path:
    """An annotation file, and beside the dataset's root an image where one is asked for."""
    file.parent.mkdir(parents=True, exist_ok=True)
    size = "<size><width>6</width><height>5</height><depth/></size>"
    file.write_text(f"{head}<annotation><filename>{name}</filename>{size}{objects}</annotation>")
    if image is not None:
        path = Path(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5)).save(path)
    return file


@pytest.mark.parametrize("name", ["raccoon", "bccd", "fod_a", "playing_cards", "voc2012_100"])
def test_real_files_equal_a_plain_reading(shared_data: Path, name: str) -> None:
    source = VocSource(shared_data / name)
    found = rows_of(source, rows=100)
    files = {file.stem: ElementTree.parse(file).getroot() for file in (shared_data / name).rglob("*.xml")}
    assert found.keys() == files.keys()
    for key, root in files.items():
        expected = []
        for item in root.findall("object"):
            corners = [float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            flag = sum(
                int(bit)
                for tag, bit in (("difficult", 4), ("occluded", 8), ("truncated", 16))
                if item.findtext(tag) == "1"
            )
            expected.append((item.findtext("name"), *corners, flag))
        assert box_rows(found[key], source.space.names) == expected
        assert Path(found[key]["path"]).stem == key
        with Image.open(source.image_root / found[key]["path"]) as image:
            assert image.size == (found[key]["width"], found[key]["height"])


@pytest.mark.parametrize(
    ("name", "splits", "classes"),
    [
        ("bccd", {"train": 126, "val": 45, "test": 41}, 3),  # trainval.txt holds no other image
        ("fod_a", {"trainval": 342, "test": 99, None: 1}, 31),
        ("playing_cards", {"train": 34, "test": 12}, 6),  # folders
        ("raccoon", {None: 85}, 1),
    ],
)
def test_splits_of_real_datasets(shared_data: Path, name: str, splits: dict[str | None, int], classes: int) -> None:
    source = VocSource(shared_data / name)
    found = [row["split"] for row in rows_of(source, 100).values()]
    assert {split: found.count(split) for split in set(found)} == splits
    assert len(source.space) == classes


def test_folders_with_the_same_names_give_ids_with_the_folder(shared_data: Path) -> None:
    found = rows_of(VocSource(shared_data / "real_defects"))
    assert len(found) == 28
    assert found["helmet/000001"]["path"] == "helmet/000001.jpg"
    assert found["clothing/000001"]["path"] == "clothing/000001.jpg"


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("a.xml", "a.jpg"),
        ("Annotations/a.xml", "JPEGImages/a.jpg"),
        ("annotations/a.xml", "images/a.png"),
        ("Annotations/x/a.xml", "JPEGImages/x/a.jpg"),
        ("2012/Annotations/a.xml", "2012/JPEGImages/a.JPG"),
        ("train/annotations/a.xml", "train/images/a.jpg"),
        ("Annotations/a.xml", "a.jpg"),
        ("xml/a.xml", "imgs/a.bmp"),
    ],
)
def test_images_lie_in_many_places(tmp_path: Path, xml: str, image: str) -> None:
    write(tmp_path / xml, name=Path(image).name, image=str(tmp_path / image))
    (row,) = rows_of(VocSource(tmp_path)).values()
    assert (row["image_id"], row["path"], row["defects"]) == ("a", image, [])
    (row,) = rows_of(VocSource(tmp_path, images=False)).values()
    assert row["path"] is None


@pytest.mark.parametrize("named", ["a", "b.jpg", "a.xml", "A.jpg", ""])
def test_a_wrong_file_name_is_noted_and_the_files_own_name_counts(tmp_path: Path, named: str) -> None:
    write(tmp_path / "a.xml", name=named, image=str(tmp_path / "a.jpg"))
    write(tmp_path / "b.xml", name="b.jpg", image=str(tmp_path / "b.jpg"))
    found = rows_of(VocSource(tmp_path))
    assert found["a"]["path"] == "a.jpg"
    assert found["a"]["defects"] == [f"wrong_file_name: <filename> is {named!r}"]
    assert found["b"]["defects"] == []


def test_a_file_without_an_image_of_its_name_takes_the_one_it_names(tmp_path: Path) -> None:
    write(tmp_path / "1.xml", name="photo.jpg", image=str(tmp_path / "photo.jpg"))
    (row,) = rows_of(VocSource(tmp_path)).values()
    assert (row["path"], row["defects"]) == ("photo.jpg", [])


def test_missing_images_and_images_without_annotation_are_noted(tmp_path: Path) -> None:
    write(tmp_path / "Annotations/a.xml", name="a.jpg", image=str(tmp_path / "JPEGImages/a.jpg"))
    write(tmp_path / "Annotations/gone.xml", name="gone.jpg")
    Image.new("RGB", (6, 5)).save(tmp_path / "JPEGImages/alone.jpg")
    (tmp_path / "SegmentationClass").mkdir()
    Image.new("L", (6, 5)).save(tmp_path / "SegmentationClass/mask.png")  # no image of the dataset
    found = rows_of(VocSource(tmp_path))
    assert {key: row["defects"] for key, row in found.items()} == {
        "a": [],
        "gone": ["missing_image: no image for Annotations/gone.xml"],
        "JPEGImages/alone.jpg": ["no_annotation: no XML of its name"],
    }


def test_flags_parts_and_zero_based_coordinates(tmp_path: Path) -> None:
    part = "<part><name>hand</name><bndbox><xmin>0</xmin></bndbox></part>"
    zero = OBJECT.replace("<xmin>1<", "<xmin>0<").replace("<difficult>1", "<truncated>1</truncated><difficult>0")
    write(tmp_path / "a.xml", OBJECT.replace("</object>", part + "</object>") + zero + OBJECT)
    (row,) = rows_of(VocSource(tmp_path, images=False)).values()
    assert row["boxes"] == [[1, 2, 3.5, 4], [0, 2, 3.5, 4], [1, 2, 3.5, 4]]
    assert row["flags"] == [BoxFlag.DIFFICULT, BoxFlag.TRUNCATED, BoxFlag.DIFFICULT]
    assert row["defects"] == ["zero_based: 1 boxes begin at 0"]


def test_lists_of_two_years_below_one_root(tmp_path: Path) -> None:
    for year, split in (("VOC2007", "train"), ("VOC2012", "val")):
        write(tmp_path / year / "Annotations/000001.xml")
        (tmp_path / year / "ImageSets/Main").mkdir(parents=True)
        (tmp_path / year / f"ImageSets/Main/{split}.txt").write_text("000001\n")
        (tmp_path / year / "ImageSets/Main/cup_test.txt").write_text("000001 -1\n")
    found = rows_of(VocSource(tmp_path, images=False))
    assert {key: row["split"] for key, row in found.items()} == {
        "VOC2007/Annotations/000001": "train",
        "VOC2012/Annotations/000001": "val",
    }


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;"><!ENTITY z "&y;&y;&y;&y;">]>'


@pytest.mark.parametrize(
    ("objects", "head", "problem"),
    [
        (OBJECT.replace("cup", "&z;"), BOMB, "entities"),
        (OBJECT, '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "entities"),
        ("<object>", "", "not well-formed XML"),
        (OBJECT.replace("cup", " "), "", "object 1: it has no <name>"),
        (OBJECT + "<object><name>cup</name></object>", "", "object 2: the 'cup' has no <bndbox>"),
        (OBJECT.replace("3.5", "3,5"), "", r"object 1\.xmax: '3,5' is not a number.*point"),
        (OBJECT.replace("3.5", ""), "", r"object 1\.xmax: '' is not a number"),
    ],
)
def test_bad_xml_is_named(tmp_path: Path, objects: str, head: str, problem: str) -> None:
    write(tmp_path / "bad.xml", objects, head=head)
    with pytest.raises(InputError, match=rf"bad\.xml.*{problem}"):
        VocSource(tmp_path)


def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.xml", name="../../etc/a.jpg")
    with pytest.raises(InputError, match=r"a\.xml: <filename>: the file name '\.\./\.\./etc/a\.jpg' leaves"):
        VocSource(tmp_path)


def test_nothing_there_and_other_xml(tmp_path: Path) -> None:
    (tmp_path / "project.xml").write_text("<project/>")
    with pytest.raises(InputError, match="no VOC annotation"):
        VocSource(tmp_path)
    write(tmp_path / "a.xml")
    assert len(rows_of(VocSource(tmp_path))) == 1


def test_nan_and_infinity_are_kept_for_the_doctor(tmp_path: Path) -> None:
    write(tmp_path / "a.xml", OBJECT.replace(">1<", ">nan<", 2).replace("3.5", "Infinity"))
    (row,) = rows_of(VocSource(tmp_path, images=False)).values()
    np.testing.assert_array_equal(row["boxes"], [[np.nan, 2, np.inf, 4]])
