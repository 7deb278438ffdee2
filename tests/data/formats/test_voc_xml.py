"""Annotation files as labelling tools write them, after what people report of them."""

import math
from pathlib import Path

import pytest
from rows_of import box_rows, rows_of
from test_voc import OBJECT, write

from xray_det.data.formats.source import open_source
from xray_det.data.formats.voc_xml import looks_like_voc, read_voc_xml
from xray_det.errors import InputError

CUP = ("cup", 1, 2, 3.5, 4, 4)


def boxes_of(file: Path) -> list[tuple[object, ...]]:
    """Name, corners and flags of the boxes of the one file in its folder, told as VOC by the folder alone."""
    source = open_source(file.parent, images=False)
    (row,) = rows_of(source).values()
    return box_rows(row, source.space.names)  # type: ignore[no-any-return]


def shaped(shape: str, name: str = "cup") -> str:
    return f"<object><name>{name}</name>{shape}</object>"


@pytest.mark.parametrize(
    ("declared", "encoded"),
    [
        (None, "utf-8"),
        (None, "utf-8-sig"),
        ("UTF-8", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("utf-16", "utf-16-le"),
        (None, "utf-16"),
        ("utf-16", "utf-8"),  # .NET writes a string's declaration and then UTF-8
        ("ISO-8859-1", "latin-1"),
        ("windows-1252", "cp1252"),
        ("big5", "big5"),
        ("gb2312", "gb2312"),
        ("GBK", "gbk"),
        ("shift_jis", "shift_jis"),
    ],
)
@pytest.mark.parametrize("before", ["", "\n\n"])
def test_encodings(tmp_path: Path, declared: str | None, encoded: str, before: str) -> None:
    """Also with blank lines before the declaration, which XML forbids."""
    name = {"latin-1": "café", "cp1252": "Œuvre", "big5": "杯子", "shift_jis": "コップ"}.get(encoded, "杯")
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    text = write(tmp_path / "a.xml", OBJECT.replace("cup", name), head=before + head).read_text()
    (tmp_path / "a.xml").write_bytes(text.encode(encoded))
    assert boxes_of(tmp_path / "a.xml") == [(name, *CUP[1:])]


def test_an_encoding_that_there_is_not(tmp_path: Path) -> None:
    """Text that is UTF-8 all the same is read; other text is refused."""
    head = '<?xml version="1.0" encoding="none"?>'
    assert boxes_of(write(tmp_path / "a.xml", OBJECT, head=head)) == [CUP]
    (tmp_path / "a.xml").write_bytes(f"{head}<annotation><filename>é</filename></annotation>".encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.xml: not well-formed XML"):
        open_source(tmp_path)


def test_text_that_is_not_in_the_declared_encoding_is_named(tmp_path: Path) -> None:
    """Read as another it would give a class of another name."""
    write(tmp_path / "a.xml").write_bytes(
        "<annotation><object><name>café</name></object></annotation>".encode("latin-1")
    )
    with pytest.raises(InputError, match=r"a\.xml: not well-formed XML \(not well-formed \(invalid token\)"):
        read_voc_xml(tmp_path / "a.xml")


@pytest.mark.parametrize(
    "text",
    [
        "<annotation xmlns='http://host.net/voc'>{0}</annotation>",
        "<v:annotation xmlns:v='http://host.net/voc'>{0}</v:annotation>",
        "<annotations><annotation>{0}</annotation></annotations>",
        "<root><version>1</version><data><annotation>{0}</annotation></data></root>",
        "<!DOCTYPE annotation><!-- made by hand --><annotation verified='yes'>{0}</annotation>",
        "<annotation><source><annotation>PASCAL VOC2007</annotation></source>{0}</annotation>",
    ],
)
def test_roots_and_namespaces(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text.format(OBJECT))
    assert boxes_of(tmp_path / "a.xml") == [CUP]


def test_annotations_of_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    one = f"<annotation><filename>a.jpg</filename>{OBJECT}</annotation>"
    (tmp_path / "a.xml").write_text(f"<annotations>{one}{one}</annotations>")
    with pytest.raises(InputError, match=r"a\.xml: holds the annotations of 2 images below <annotations>.*one file an"):
        open_source(tmp_path)


def test_other_xml_is_not_taken_for_voc(tmp_path: Path) -> None:
    (tmp_path / "cvat.xml").write_text("<annotations><image id='0'><box label='cup' xtl='1'/></image></annotations>")
    assert read_voc_xml(tmp_path / "cvat.xml") is None
    with pytest.raises(InputError, match="no dataset found"):
        open_source(tmp_path)
    assert looks_like_voc("<?xml version='1.0'?><annotation>".encode("utf-16"))
    assert not looks_like_voc(b"<annotations>")


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        # Labelbox, Roboflow: numbered corners
        ("<polygon><x1>4</x1><y1>9</y1><x2>1.5</x2><y2>2</y2><x3>3</x3><y3>7</y3></polygon>", (1.5, 2, 4, 9)),
        # LabelMe
        (
            "<polygon><username>me</username><pt><x>4</x><y>9</y></pt><pt><x>1</x><y>2</y></pt></polygon>",
            (1, 2, 4, 9),
        ),
        ("<points>4,9;1,2;3,7</points>", (1, 2, 4, 9)),
        ("<polygon><point>4,9</point><point>1,2</point></polygon>", (1, 2, 4, 9)),
        ("<segmentation>4 9 1 2 3 7</segmentation>", (1, 2, 4, 9)),
        # roLabelImg: a quarter turn, and none
        ("<robndbox><cx>10</cx><cy>20</cy><w>8</w><h>2</h><angle>0</angle></robndbox>", (6, 19, 14, 21)),
        (
            f"<robndbox><cx>10</cx><cy>20</cy><w>8</w><h>2</h><angle>{math.pi / 2}</angle></robndbox>",
            (9, 16, 11, 24),
        ),
        (
            f"<robndbox><cx>0</cx><cy>0</cy><w>2</w><h>2</h><angle>{-math.pi / 4}</angle></robndbox>",
            (-math.sqrt(2), -math.sqrt(2), math.sqrt(2), math.sqrt(2)),
        ),
    ],
)
def test_shapes_without_a_box_give_the_box_around_them(
    tmp_path: Path, shape: str, box: tuple[float, float, float, float]
) -> None:
    write(tmp_path / "a.xml", shaped(shape) + OBJECT)
    found = read_voc_xml(tmp_path / "a.xml")
    assert found is not None
    assert found.boxes[0] == pytest.approx(box, abs=1e-12)
    assert found.boxes[1:] == [CUP[1:5]]
    assert (found.names, found.flags) == (["cup", "cup"], [0, 4])
    (row,) = rows_of(open_source(tmp_path, images=False)).values()
    assert row["defects"] == ["from_segmentation: 1 of 2 boxes"]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ("<polygon/>", "the 'cup' has no <bndbox>"),
        ("<polygon><x1>1</x1><y1>2</y1></polygon>", "the 'cup' has no <bndbox>"),
        ("<points>4,9;1</points>", "the 'cup' has no <bndbox>"),
        ("<points>4,9;1,x</points>", r"object 1\.points: 'x' is not a number"),
        ("<polygon><x1>1</x1><y1>2</y1><x2>3,5</x2><y2>2</y2></polygon>", r"object 1\.x2: '3,5' is not a number"),
        ("<robndbox><cx>1</cx></robndbox>", r"object 1\.cy: None is not a number"),
    ],
)
def test_shapes_that_give_no_box_are_named(tmp_path: Path, shape: str, problem: str) -> None:
    write(tmp_path / "a.xml", shaped(shape))
    with pytest.raises(InputError, match=rf"a\.xml: .*{problem}"):
        read_voc_xml(tmp_path / "a.xml")


def test_a_box_goes_before_a_shape_and_each_box_counts(tmp_path: Path) -> None:
    """Roboflow writes both; an object with two boxes is two of its class."""
    box = "<bndbox><xmin>{0}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    both = f"<polygon><x1>0</x1><y1>0</y1><x2>50</x2><y2>50</y2></polygon>{box.format(2)}"
    write(tmp_path / "a.xml", shaped(both) + shaped(box.format(3) + box.format(4), "dog"))
    assert boxes_of(tmp_path / "a.xml") == [
        ("cup", 2, 1, 9, 9, 0),
        ("dog", 3, 1, 9, 9, 0),
        ("dog", 4, 1, 9, 9, 0),
    ]
    (row,) = rows_of(open_source(tmp_path, images=False)).values()
    assert row["defects"] == []


def test_what_tools_add_to_an_object_changes_nothing(tmp_path: Path) -> None:
    """CVAT's attributes with names of their own, VOC's parts, Unspecified where a number is due, absent flags."""
    added = (
        "<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes><pose>Unspecified</pose>"
        "<truncated>Unspecified</truncated><occluded/><part><name>hand</name><bndbox><xmin>0</xmin></bndbox></part>"
    )
    write(tmp_path / "a.xml", OBJECT.replace("<object>", f"<object>{added}").replace("<difficult>1</difficult>", ""))
    assert boxes_of(tmp_path / "a.xml") == [(*CUP[:5], 0)]


def test_roboflow_s_folders_are_splits(tmp_path: Path) -> None:
    for folder, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        name = f"{name}_jpg.rf.0123456789abcdef"
        write(tmp_path / folder / f"{name}.xml", name=f"{name}.jpg", image=str(tmp_path / folder / f"{name}.jpg"))
    (tmp_path / "README.dataset.txt").write_text("train\n")
    found = rows_of(open_source(tmp_path))
    assert {key[0]: (row["split"], row["defects"]) for key, row in found.items()} == {
        "a": ("train", []),
        "b": ("val", []),
        "c": ("test", []),
    }


@pytest.mark.parametrize("named", ["a.jpg", ""])
def test_an_annotation_called_as_its_image_with_the_suffix(tmp_path: Path, named: str) -> None:
    write(tmp_path / "Annotations/a.jpg.xml", name=named, image=str(tmp_path / "JPEGImages/a.jpg"))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/val.txt").write_text("a.jpg\n")
    (row,) = rows_of(open_source(tmp_path)).values()
    assert (row["path"], row["split"]) == ("JPEGImages/a.jpg", "val")
    assert [note.split(":")[0] for note in row["defects"]] == ([] if named else ["wrong_file_name"])
