"""VOC XML against a plain reading, and every place in which images are published."""

import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rows_of import box_rows, rows_of

from xray_det.data.formats.source import open_source
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


def _boxes(*boxes: tuple[float, float, float, float]) -> str:
    corners = ("xmin", "ymin", "xmax", "ymax")
    sides = ["".join(f"<{c}>{v}</{c}>" for c, v in zip(corners, box, strict=True)) for box in boxes]
    return "".join(f"<object><name>cup</name><bndbox>{box}</bndbox></object>" for box in sides)


@pytest.mark.parametrize(
    ("boxes", "kinds"),
    [
        ([(0.1, 0.2, 0.5, 0.6)], ["fractions"]),
        ([(0, 0, 1, 1), (0.1, 0.2, 0.5, 0.6)], ["fractions"]),
        ([(0.1, 0.2, 0.5, 0.6), (1, 1, 3, 2)], []),
        ([(0, 0, 0, 0)], ["zero_based"]),
        ([(1, 1, 1, 1)], []),  # one pixel
        ([], []),
    ],
)
def test_boxes_of_a_file_that_are_all_fractions_are_a_finding(
    tmp_path: Path, boxes: list[tuple[float, float, float, float]], kinds: list[str]
) -> None:
    write(tmp_path / "a.xml", _boxes(*boxes))
    write(tmp_path / "b.xml", OBJECT)
    found = rows_of(VocSource(tmp_path, images=False))
    assert [note.partition(":")[0] for note in found["a"]["defects"]] == kinds
    assert found["b"]["defects"] == []


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


@pytest.mark.parametrize(
    "named", ["/home/me/pics/a.jpg", "C:\\Users\\me\\a.jpg", "D:/x/../a.jpg", "\\\\server\\a.jpg", "/etc/passwd"]
)
def test_an_absolute_file_name_counts_by_its_last_part(tmp_path: Path, named: str) -> None:
    write(tmp_path / "Annotations/a.xml", name=named, image=str(tmp_path / "JPEGImages/a.jpg"))
    (row,) = rows_of(VocSource(tmp_path)).values()
    assert row["path"] == "JPEGImages/a.jpg"
    assert row["defects"] == [f"wrong_file_name: <filename> is {named!r}"]


def test_an_absolute_file_name_alone_tells_the_image_inside_the_dataset(tmp_path: Path) -> None:
    outside = write(tmp_path / "other/x.xml", image=str(tmp_path / "other/photo.jpg")).parent / "photo.jpg"
    write(tmp_path / "d/Annotations/1.xml", name=str(outside), image=str(tmp_path / "d/JPEGImages/2.jpg"))
    (row,) = rows_of(VocSource(tmp_path / "d")).values()
    assert row["path"] is None, "nothing outside is opened"
    (tmp_path / "d/JPEGImages/photo.jpg").write_bytes(outside.read_bytes())
    found = rows_of(VocSource(tmp_path / "d"))
    assert found["1"]["path"] == "JPEGImages/photo.jpg"


@pytest.mark.parametrize("case", ["voc_filename_abs_unix", "jfif_voc", "xml_utf16"])
def test_published_cases_find_every_image(shared_data: Path, case: str) -> None:
    source = open_source(shared_data / "field_cases" / case / "d")
    found = rows_of(source)
    assert source.format == "voc"
    assert len(found) == {"voc_filename_abs_unix": 3, "jfif_voc": 5, "xml_utf16": 3}[case]
    assert all((source.image_root / row["path"]).stem == key for key, row in found.items())
    wrong = [row["defects"] for row in found.values() if row["defects"]]
    assert len(wrong) == (3 if case == "voc_filename_abs_unix" else 0)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".JPEG", ".PNG", ".bmp", ".WebP", ".tif", ".TIFF"])
def test_suffixes_of_images(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "Annotations/a.XML", name=f"a{suffix}")
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / f"JPEGImages/a{suffix}").touch()
    (row,) = rows_of(open_source(tmp_path / "Annotations/a.XML")).values()
    assert (row["path"], row["defects"]) == (f"JPEGImages/a{suffix}", [])


@pytest.mark.parametrize(
    ("xml", "image", "named", "wrong"),
    [
        ("NFC", "NFD", "NFC", False),
        ("NFD", "NFC", "NFD", False),
        ("upper", "lower", "upper", True),  # the annotation names another file than is there
        ("upper", "lower", "lower", False),
        ("quoted", "NFC", "NFC", False),
    ],
)
def test_names_that_copying_has_changed(tmp_path: Path, xml: str, image: str, named: str, wrong: bool) -> None:
    forms = {form: unicodedata.normalize(form, "café 1") for form in ("NFC", "NFD")}  # type: ignore[arg-type]
    forms |= {"upper": "CAFÉ 1", "lower": "café 1", "quoted": "caf%C3%A9%201"}
    file = f"{forms[image]}.jpg"
    write(tmp_path / f"Annotations/{forms[xml]}.xml", name=f"{forms[named]}.jpg", image=str(tmp_path / "images" / file))
    (row,) = rows_of(VocSource(tmp_path)).values()
    assert row["path"] == f"images/{file}"
    assert [note.split(":")[0] for note in row["defects"]] == ["wrong_file_name"] * wrong


def test_two_images_that_a_name_may_mean_are_none(tmp_path: Path) -> None:
    for name in ("a.jpg", "A.jpg"):
        write(tmp_path / "other.xml", image=str(tmp_path / "images" / name))
    write(tmp_path / "Annotations/a.xml", name="a.jpg")
    write(tmp_path / "Annotations/ä.xml", name="Á.jpg")
    for name in ("Ä.jpg", "ä.png"):
        write(tmp_path / "other.xml", image=str(tmp_path / "images" / name))
    (tmp_path / "Annotations/ä.xml").rename(tmp_path / "Annotations/a\u0308.xml")  # decomposed: neither, by the letter
    found = rows_of(VocSource(tmp_path))
    assert found["a"]["path"] == "images/a.jpg"
    assert found["a\u0308"]["path"] is None


def test_the_most_similar_image_is_said_of_the_first_that_are_missing(tmp_path: Path) -> None:
    write(tmp_path / "Annotations/IMG_0001.xml", image=str(tmp_path / "JPEGImages/IMG_0001.png"))
    for number in range(5):
        write(tmp_path / f"Annotations/IMG_100{number}.xml")
    notes = [row["defects"][0] for key, row in rows_of(VocSource(tmp_path)).items() if key != "IMG_0001"]
    said = "; the most similar name there is JPEGImages/IMG_0001.png"
    assert [note.endswith(said) for note in notes] == [True, True, True, False, False]


def test_linked_folders_and_files_are_followed_and_named(tmp_path: Path) -> None:
    """As people put a dataset together from a store: folders, files; what leaves the folder is noted once an image."""
    store, voc = tmp_path / "store", tmp_path / "voc"
    for name in ("p0", "p1"):
        write(store / f"xml/{name}.xml", name=f"{name}.jpg", image=str(store / f"pics/{name}.jpg"))
    voc.mkdir()
    (voc / "Annotations").symlink_to("../store/xml")
    (voc / "JPEGImages").symlink_to(store / "pics", target_is_directory=True)
    source = open_source(voc)
    found = rows_of(source)
    assert {key: row["path"] for key, row in found.items()} == {n: f"JPEGImages/{n}.jpg" for n in ("p0", "p1")}
    assert found["p0"]["defects"] == [f"outside_link: its annotation lies at {store}/xml/p0.xml"]
    (voc / "Annotations").unlink()
    (voc / "Annotations").mkdir()
    for name in ("p0", "p1"):
        (voc / f"Annotations/{name}.xml").symlink_to(store / f"xml/{name}.xml")
    assert rows_of(open_source(voc)) == found


@pytest.mark.parametrize(("annotations", "images"), [("big/xml", "big/pics"), ("big/Annotations", None)])
def test_links_inside_the_folder_give_each_image_once(tmp_path: Path, annotations: str, images: str | None) -> None:
    write(tmp_path / annotations / "a.xml", image=str(tmp_path / (images or "big/JPEGImages") / "a.jpg"))
    (tmp_path / "Annotations").symlink_to(annotations)
    if images is not None:
        (tmp_path / "JPEGImages").symlink_to(images)
    (row,) = rows_of(open_source(tmp_path)).values()
    assert row["path"] is not None
    assert [note.split(":")[0] for note in row["defects"]] == ["wrong_file_name"]  # empty


def test_links_that_loop_end(tmp_path: Path) -> None:
    write(tmp_path / "Annotations/a.xml", name="a.jpg", image=str(tmp_path / "JPEGImages/a.jpg"))
    (tmp_path / "Annotations/again").symlink_to(tmp_path)
    (tmp_path / "JPEGImages/up").symlink_to("..")
    (tmp_path / "self").symlink_to("self")
    (row,) = rows_of(open_source(tmp_path)).values()
    assert (row["path"], row["defects"]) == ("JPEGImages/a.jpg", [])


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    (tmp_path / "Annotations").symlink_to("/nowhere/xml")
    with pytest.raises(InputError, match=r"Annotations is a link to /nowhere/xml, which is not there"):
        open_source(tmp_path)
    (tmp_path / "Annotations").unlink()
    (tmp_path / "xml").mkdir()
    (tmp_path / "Annotations").write_text("xml\n")
    with pytest.raises(InputError, match=r"Annotations is a file that says 'xml', a link that was copied as text"):
        open_source(tmp_path)
    (tmp_path / "xml/a.xml").symlink_to("gone.xml")
    with pytest.raises(InputError, match=r"a\.xml: is a link to gone\.xml: no such file"):
        open_source(tmp_path)


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
