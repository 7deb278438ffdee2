"""Open Images CSVs against the csv module and loops, with one bucket and with many."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rows_of import box_rows, rows_of

from xray_det.data.formats import open_images
from xray_det.data.formats.open_images import OpenImagesSource
from xray_det.data.formats.open_images_csv import read_classes
from xray_det.data.formats.source import open_source
from xray_det.data.schema import BoxFlag
from xray_det.errors import InputError

V6 = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
CLICKS = V6 + ",XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y"
CHALLENGE = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf"


def write(folder: Path, **files: str) -> Path:
    """CSV files by name, underscores standing for hyphens."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name.replace('_', '-')}.csv").write_text(text)
    return folder


def brute(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    boxes: dict[str, list[tuple[Any, ...]]] = {}
    with open(file, newline="") as stream:
        for row in csv.DictReader(stream):
            own = boxes.setdefault(row["ImageID"], [])
            if row["LabelName"]:
                corners = [float(row[name]) for name in ("XMin", "YMin", "XMax", "YMax")]
                own.append((row["LabelName"], *corners, int(BoxFlag.GROUP_OF) * int(row.get("IsGroupOf", 0))))
    return boxes


@pytest.mark.parametrize("buckets", ["one", "many"])
@pytest.mark.parametrize("name", ["challenge_sample/annotations-bbox_expanded.csv", "gt_sample/annotations.csv"])
def test_real_boxes_equal_a_plain_reading(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, buckets: str
) -> None:
    if buckets == "many":
        monkeypatch.setattr(open_images, "_BUCKET_BYTES", 50_000)
    file = shared_data / "open_images" / name
    source = OpenImagesSource(file, images=False)
    found = rows_of(source, rows=300)
    expected = brute(file)
    assert {key: box_rows(row, source.space.names) for key, row in found.items()} == expected
    assert source.space.names == tuple(sorted({box[0] for boxes in expected.values() for box in boxes}))
    assert source.normalized
    assert not source.exhaustive


def test_real_image_labels_equal_a_plain_reading(shared_data: Path) -> None:
    folder = shared_data / "open_images/challenge_sample"
    source = OpenImagesSource(folder, images=False)
    expected: dict[str, dict[str, set[str]]] = {}
    with open(folder / "annotations-human-imagelabels_expanded.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            expected.setdefault(row["ImageID"], {"0": set(), "1": set()})[row["Confidence"]].add(row["LabelName"])
    names = source.space.names
    for key, row in rows_of(source, rows=300).items():
        labels = expected.get(key, {"0": set(), "1": set()})
        assert [names[label] for label in row["verified_positive"]] == sorted(labels["1"])
        assert [names[label] for label in row["verified_negative"]] == sorted(labels["0"])


def test_image_labels_alone_are_a_dataset(shared_data: Path) -> None:
    file = shared_data / "open_images/challenge-2018-novel-annotations-imagelevel_expanded.csv"
    found = rows_of(OpenImagesSource(file, images=False), rows=5000)
    assert len(found) == 27_164
    assert sum(len(row["verified_positive"]) for row in found.values()) == 28_786
    assert sum(len(row["verified_negative"]) for row in found.values()) == 15_699
    assert not any(row["boxes"] for row in found.values())


def test_a_release_on_disk_with_all_its_files(shared_data: Path) -> None:
    source = OpenImagesSource(shared_data / "open_images/format_fixtures/datumaro/v6")
    found = rows_of(source)
    assert source.space.names == tuple(f"Generic label #{k}" for k in range(4))
    assert source.hierarchy is not None
    assert source.hierarchy.parents == (("/m/1", "/m/0"),)
    assert {key: (row["split"], row["path"]) for key, row in found.items()} == {
        "a": ("train", "images/train/a.jpg"),
        "b": ("train", "images/train/b.jpg"),
        "c": ("test", "images/test/c.jpg"),
        "d": ("val", "images/validation/d.png"),  # its row in the list is ragged, and it has no label at all
    }
    assert found["b"]["boxes"] == [[0.2, 0.3, 1, 0.5]]
    assert found["b"]["flags"] == [0]  # all -1: unknown
    assert found["c"]["flags"] == [BoxFlag.OCCLUDED | BoxFlag.GROUP_OF]
    assert found["c"]["verified_positive"] == [1, 3]
    assert found["b"]["verified_negative"] == [0]


def test_a_list_of_images_alone_counts_the_files_that_are_there(shared_data: Path) -> None:
    folder = shared_data / "open_images/format_fixtures/datumaro/v5"
    found = rows_of(OpenImagesSource(folder))
    assert {key: row["split"] for key, row in found.items()} == {"aa": "train", "cc": "test"}
    with pytest.raises(InputError, match="empty"):
        OpenImagesSource(folder, images=False)


@pytest.mark.parametrize(
    ("header", "row", "flags"),
    [
        (V6, "i,xclick,/m/a,1,.1,.3,.2,.4,1,0,-1,1,0", BoxFlag.OCCLUDED | BoxFlag.DEPICTION),
        (CLICKS, "i,xclick,/m/a,1,.1,.3,.2,.4,0,1,0,0,1,.1,.2,.3,.1,.4,.3,.2,.2", BoxFlag.TRUNCATED | BoxFlag.INSIDE),
        (CHALLENGE, "i,/m/a,.1,.3,.2,.4,1", BoxFlag.GROUP_OF),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax", "i,/m/a,.1,.3,.2,.4", 0),
        ("YMax,YMin,XMax,XMin,LabelName,ImageID", ".4,.2,.3,.1,/m/a,i", 0),
        (V6, "i,,/m/a,,.1,.3,.2,.4,,,,,", 0),
        ("\ufeff" + V6, "i,,/m/a,,.1,.3,.2,.4,1,1,1,1,1", 8 + 16 + 2 + 32 + 64),
    ],
)
def test_headers_of_every_version(tmp_path: Path, header: str, row: str, flags: int) -> None:
    write(tmp_path, train_annotations_bbox=f"{header}\n{row}\n")
    (found,) = rows_of(OpenImagesSource(tmp_path, images=False)).values()
    assert (found["image_id"], found["split"]) == ("i", "train")
    assert found["boxes"] == [[0.1, 0.2, 0.3, 0.4]]
    assert found["flags"] == [flags]


def test_rows_of_an_image_need_not_be_neighbours_nor_in_one_file(tmp_path: Path) -> None:
    rows = [f"i{k % 3},/m/a,0.{k},.9,.1,.2" for k in range(9)]
    header = "ImageID,LabelName,XMin,XMax,YMin,YMax"
    write(tmp_path, part_one_bbox="\n".join([header, *rows[:5]]), part_two_bbox="\n".join([header, *rows[5:]]))
    found = rows_of(OpenImagesSource(tmp_path, images=False))
    assert {key: [box[0] for box in row["boxes"]] for key, row in found.items()} == {
        "i0": [0.0, 0.3, 0.6],
        "i1": [0.1, 0.4, 0.7],
        "i2": [0.2, 0.5, 0.8],
    }


def test_the_smallest_class_table_that_knows_every_box_is_the_class_table(tmp_path: Path) -> None:
    write(
        tmp_path,
        train_annotations_bbox=f"{CHALLENGE}\ni,/m/b,0,1,0,1,0\n",
        train_annotations_human_imagelabels="ImageID,Source,LabelName,Confidence\n"
        "i,verification,/m/a,1\ni,verification,/m/z,0\ni,machine,/m/a,0\ni,verification,/m/b,0.7\n",
        class_descriptions="LabelName,DisplayName\n/m/z,Everything\n/m/b,Bee\n/m/a,Ant\n/m/y,Ant\n",
        class_descriptions_boxable='/m/b,"Bee, honey"\n/m/a,Ant\n',
        other_class_descriptions="/m/a,Ant\n",
    )
    source = OpenImagesSource(tmp_path, images=False)
    assert source.space.names == ("Bee, honey", "Ant")
    (row,) = rows_of(source).values()
    # a class that no box can have verifies nothing, a machine's guess neither
    assert (row["verified_positive"], row["verified_negative"]) == ([1], [])


def test_images_are_found_in_the_official_folders(tmp_path: Path) -> None:
    write(
        tmp_path / "annotations",
        train_annotations_bbox=f"{CHALLENGE}\n0a,/m/a,0,1,0,1,0\nfb,/m/a,0,1,0,1,0\n",
        validation_annotations_bbox=f"{CHALLENGE}\ncc,/m/a,0,1,0,1,0\ndd,/m/a,0,1,0,1,0\n",
    )
    for path in ("train_0/0a.jpg", "train_f/fb.jpg", "validation/cc.jpg", "train_0/dd.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    found = rows_of(OpenImagesSource(tmp_path))
    assert [row["path"] for row in found.values()] == ["train_0/0a.jpg", "train_f/fb.jpg", "validation/cc.jpg", None]
    assert [row["defects"] for row in found.values()] == [[], [], [], ["missing_image: no file for dd"]]


def test_decimal_commas_are_named_with_file_row_and_column(shared_data: Path) -> None:
    with pytest.raises(InputError, match=r"all_bounding_boxes\.csv: row 2, XMin: '0,3580246914'.*decimal comma.*point"):
        OpenImagesSource(shared_data / "voc2012_100/other_formats/openimages_format", images=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,label,x1,y1,x2,y2\ni,a,0,0,1,1\n", "header is 'image,label,x1,y1,x2,y2'"),
        ("ImageID,LabelName,XMin,XMax,YMin\ni,a,0,0,1\n", "row 1: the header lacks YMax"),
        (f"{CHALLENGE}\ni,/m/a,0,1,0,1,0\ni,/m/a,0,one,0,1,0\n", "row 3, XMax: 'one' is not a number"),
        (f"{CHALLENGE}\ni,/m/a,0,1,0,1,0\ni,/m/a,0,1,0,5,1,0\n", "row 3: 8 fields where the header has 7"),
        (f"{CHALLENGE}\n", "empty"),
        (f"{CHALLENGE}\n,/m/a,0,1,0,1,0\n", "no ImageID"),
        (f"{CHALLENGE}\ni,,0,1,0,1,0\n", "no LabelName"),
        (f"{CHALLENGE}\n../i,/m/a,0,1,0,1,0\n", "leaves the dataset's folder"),
        ("", "header is ''"),
    ],
)
def test_bad_boxes_are_named(tmp_path: Path, text: str, problem: str) -> None:
    write(tmp_path, train_annotations_bbox=text)
    with pytest.raises(InputError, match=problem):
        rows_of(OpenImagesSource(tmp_path))


def test_bad_classes_are_named(shared_data: Path, tmp_path: Path) -> None:
    write(tmp_path, train_annotations_bbox=f"{CHALLENGE}\ni,/m/q,0,1,0,1,0\n", class_descriptions="/m/a,Ant\n")
    with pytest.raises(InputError, match=r"class-descriptions\.csv: boxes are of the unknown class '/m/q'"):
        OpenImagesSource(tmp_path, images=False)
    write(tmp_path, class_descriptions="/m/a,Ant\n/m/q,Ant\n")
    with pytest.raises(InputError, match=r"class-descriptions\.csv: categories: two classes share the name 'Ant'"):
        OpenImagesSource(tmp_path, images=False)
    copies = shared_data / "open_images/defective_copies"
    with pytest.raises(InputError, match="row 6: the class '/m/012n7d' has no name"):
        read_classes(copies / "empty_display_name.csv")
    with pytest.raises(InputError, match="row 1: '/m/011k07;Tortoise' is one field"):
        read_classes(copies / "semicolon_cr_only.csv")
    assert len(read_classes(shared_data / "open_images/class-descriptions-boxable.csv")) == 601


def test_an_image_in_two_splits_is_named(tmp_path: Path) -> None:
    text = f"{CHALLENGE}\nsame,/m/a,0,1,0,1,0\n"
    write(tmp_path, train_annotations_bbox=text, validation_annotations_bbox=text)
    with pytest.raises(InputError, match="image same stands in train and in val"):
        rows_of(OpenImagesSource(tmp_path, images=False))


def test_infinite_fractions_are_kept_for_the_doctor(tmp_path: Path) -> None:
    write(tmp_path, train_annotations_bbox=f"{CHALLENGE}\ni,/m/a,0,inf,nan,1,0\ni,/m/a,0,,0,1,0\n")
    (row,) = rows_of(OpenImagesSource(tmp_path, images=False)).values()
    np.testing.assert_array_equal(row["boxes"], [[0, np.nan, np.inf, 1], [0, 0, np.nan, 1]])


def bytes_of(root: Path, name: str, data: bytes) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    return root


DESCRIBED = "/m/a,Montgolfi\u00e8re\n/m/b,\u0152uvre\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("header", ["", "LabelName,DisplayName\n", "labelname,displayname\n\n"])
def test_class_descriptions_in_the_encodings_of_windows(tmp_path: Path, encoding: str, header: str) -> None:
    write(tmp_path / "train/labels", detections=f"{CHALLENGE}\ni,/m/b,0,1,0,1,0\n")
    bytes_of(tmp_path, "train/metadata/classes.csv", (header + DESCRIBED).replace("\n", "\r\n").encode(encoding))
    assert OpenImagesSource(tmp_path, images=False).space.names == ("Montgolfi\u00e8re", "\u0152uvre")


def test_class_descriptions_that_are_no_text_are_named(tmp_path: Path) -> None:
    write(tmp_path, train_annotations_bbox=f"{CHALLENGE}\ni,/m/a,0,1,0,1,0\n")
    bytes_of(tmp_path, "class-descriptions.csv", b"/m/a,\x81\x8d\n")
    with pytest.raises(InputError, match=r"class-descriptions\.csv: is no text in utf-8-sig or cp1252"):
        OpenImagesSource(tmp_path, images=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_every_csv_may_be_utf_16_with_its_mark(tmp_path: Path, encoding: str) -> None:
    for name, text in {
        "train/labels/detections.csv": f"{CHALLENGE}\ni,/m/a,.1,.3,.2,.4,1\n",
        "train/labels/classifications.csv": "ImageID,Source,LabelName,Confidence\ni,verification,/m/b,0\n",
        "train/metadata/image_ids.csv": "ImageID,Subset,Author\nj,validation,Zo\u00eb\n",
        "train/metadata/classes.csv": "/m/a,Ant\n/m/b,Bee\n",
    }.items():
        bytes_of(tmp_path, name, ("\ufeff" + text).encode(encoding))
    bytes_of(tmp_path, "validation/data/j.jpg", b"")
    found = rows_of(OpenImagesSource(tmp_path))
    assert (found["i"]["boxes"], found["i"]["verified_negative"]) == ([[0.1, 0.2, 0.3, 0.4]], [1])
    assert found["j"]["split"] == "val"


@pytest.mark.parametrize(
    "header", [CHALLENGE.lower(), CHALLENGE.upper(), CHALLENGE.replace(",", ", "), f'"{CHALLENGE}"'.replace(",", '","')]
)
def test_headers_in_any_letter_case_with_blanks_and_quotes(tmp_path: Path, header: str) -> None:
    write(tmp_path, train_annotations_bbox=f'{header}\n"i","/m/a",.1,.3,.2,.4,1\n\n')
    write(tmp_path, train_labels="imageid,SOURCE,labelName,CONFIDENCE\n\ni,verification,/m/a,1\ni,machine,/m/z,0\n")
    (row,) = rows_of(OpenImagesSource(tmp_path, images=False)).values()
    assert (row["boxes"], row["flags"], row["verified_positive"]) == ([[0.1, 0.2, 0.3, 0.4]], [BoxFlag.GROUP_OF], [0])


@pytest.mark.parametrize(("separator", "said"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
@pytest.mark.parametrize("name", ["labels/detections", "labels/classifications", "metadata/image_ids"])
def test_another_separator_in_any_file_is_named(tmp_path: Path, separator: str, said: str, name: str) -> None:
    """The other split is whole: without this it would be all there is, and nothing would be wrong."""
    texts = {
        "labels/detections": f"{CHALLENGE}\ni,/m/a,.1,.3,.2,.4,1\n",
        "labels/classifications": "ImageID,Source,LabelName,Confidence\ni,verification,/m/b,0\n",
        "metadata/image_ids": "ImageID,Subset\ni,train\n",
    }
    for one, text in texts.items():
        bytes_of(tmp_path, f"validation/{one}.csv", text.replace("i,", "j,").encode())
        bytes_of(tmp_path, f"train/{one}.csv", (text.replace(",", separator) if one == name else text).encode())
    with pytest.raises(InputError, match=rf"train/{name}\.csv: row 1: .*: fields separated by {said}"):
        open_source(tmp_path, images=False)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_another_separator_in_class_descriptions_is_named(tmp_path: Path, separator: str) -> None:
    """Else the published ids would pass for names."""
    bytes_of(tmp_path, "train/labels/detections.csv", f"{CHALLENGE}\ni,/m/a,.1,.3,.2,.4,1\n".encode())
    bytes_of(tmp_path, "train/metadata/classes.csv", f"/m/a{separator}Ant\n".encode())
    with pytest.raises(InputError, match=r"classes\.csv: row 1: .* is one field"):
        OpenImagesSource(tmp_path, images=False)


def test_a_table_of_detections_with_other_columns_is_named(tmp_path: Path) -> None:
    bytes_of(tmp_path, "train/labels/detections.csv", b"filename,class,x1,y1,x2,y2\ni,a,0,0,1,1\n")
    bytes_of(tmp_path, "validation/labels/detections.csv", f"{CHALLENGE}\ni,/m/a,.1,.3,.2,.4,1\n".encode())
    with pytest.raises(InputError, match=r"train/labels/detections\.csv: row 1: the header is 'filename,class"):
        OpenImagesSource(tmp_path, images=False)


BOXES = "ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0.1,0.2,0.3,0.4\n"


@pytest.mark.parametrize("name", ["train-annotations-human-imagelabels", "val-annotations-human-imagelabels-boxable"])
@pytest.mark.parametrize(
    "header", ["", "ImageID,LabelName,Konfidence", "ImageID,Labels,Confidence", "Image,Confidence"]
)
def test_image_labels_under_another_header_are_not_left_out(tmp_path: Path, name: str, header: str) -> None:
    write(tmp_path, train_annotations_bbox=BOXES, **{name: f"{header}\na,/m/1,1\n"})
    with pytest.raises(InputError, match=rf"{name}\.csv: row 1: the header is .* ImageID, LabelName, Confidence"):
        open_source(tmp_path, images=False)


@pytest.mark.parametrize("said", ["", "<html>", '{"Lab'])
def test_a_damaged_hierarchy_is_not_left_out(tmp_path: Path, said: str) -> None:
    write(tmp_path, train_annotations_bbox=BOXES)
    (tmp_path / "bbox_labels_600_hierarchy.json").write_text(said)
    with pytest.raises(InputError, match=r"hierarchy\.json: not valid JSON"):
        open_source(tmp_path, images=False)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig"])
def test_a_hierarchy_in_the_encodings_of_windows(tmp_path: Path, encoding: str) -> None:
    write(tmp_path, train_annotations_bbox=BOXES)
    tree = '{"LabelName": "/m/0", "Subcategory": [{"LabelName": "/m/2", "Subcategory": [{"LabelName": "/m/1"}]}]}'
    (tmp_path / "hierarchy.json").write_bytes(tree.encode(encoding))
    found = open_source(tmp_path, images=False).hierarchy
    assert found is not None
    assert found.parents == (("/m/1", "/m/2"),)


def test_other_json_that_is_called_a_hierarchy_is_none(tmp_path: Path) -> None:
    write(tmp_path, train_annotations_bbox=BOXES)
    (tmp_path / "bbox_hierarchy_v3_tree.json").write_text('{"name": "Entity", "children": []}')
    assert open_source(tmp_path, images=False).hierarchy is None


def test_pixels_where_fractions_are_due_are_named(tmp_path: Path) -> None:
    write(tmp_path, train_annotations_bbox=f"{CHALLENGE}\ni,/m/a,10,300,20,40,0\nj,/m/a,0,5,0,1,0\n")
    with pytest.raises(InputError, match=r"train-annotations-bbox\.csv: every box reaches beyond 2: pixels"):
        OpenImagesSource(tmp_path, images=False)
    write(tmp_path, train_annotations_bbox=f"{CHALLENGE}\ni,/m/a,10,300,20,40,0\nj,/m/a,-0.1,1.2,0,1,0\n")
    assert len(rows_of(OpenImagesSource(tmp_path, images=False))) == 2  # one broken box is the doctor's


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    write(tmp_path, train_annotations_bbox=f"{CHALLENGE}\ni,/m/a,.1,.3,.2,.4,1\n")
    bytes_of(tmp_path, "image_ids.csv", "ImageID,Author\ni,Zo\u00eb\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"image_ids\.csv: is not UTF-8"):
        OpenImagesSource(tmp_path, images=False)
    bytes_of(tmp_path, "image_ids.csv", "ImageID,LabelName,XMin,XMax,YMin,YMax\n\u00eb,/m/a,0,1,0,1\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"image_ids\.csv: .*UTF8.*Save it as UTF-8"):
        OpenImagesSource(tmp_path, images=False)


def test_field_releases(shared_data: Path) -> None:
    source = OpenImagesSource(shared_data / "field_cases/oi_classes_latin1/d")
    assert source.space.names == ("Montgolfi\u00e8re", "Kite")
    assert len(rows_of(source)) == 8
    with pytest.raises(InputError, match=r"train/labels/detections\.csv: row 1: .*: fields separated by semicolons"):
        open_source(shared_data / "field_cases/oi_semicolon/d")
