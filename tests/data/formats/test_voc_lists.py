"""Split lists as people write them: each line finds its image, and what none finds is counted."""

import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from rows_of import rows_of
from test_voc import write

from xray_det.data.formats.source import open_source
from xray_det.data.formats.voc import VocSource
from xray_det.data.formats.voc_lists import SplitLists
from xray_det.errors import InputError


def placed(
    root: Path, files: list[str], lists: dict[str, str | bytes], folder: str = "ImageSets/Main"
) -> tuple[dict[str, str | None], Counter[str]]:
    """The split of each image of a dataset, and how often each kind of defect is met in its lists."""
    for file in files:
        write(root / f"{file}.xml")
    for name, content in lists.items():
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    source = open_source(root, images=False)
    rows = rows_of(source)
    kinds = Counter(note.split(":")[0] for row in rows.values() for note in row["defects"])
    kinds.update(str(kind) for kind, *_ in source.findings)
    return {key: row["split"] for key, row in rows.items()}, kinds


@pytest.mark.parametrize(
    ("case", "splits"),
    [
        ("voc_lists_spaces", {"my photo 1": "train", "my photo 2": "train", "shop 3": "val", "shop 4": "val"}),
        ("voc_lists_bom", {"a1": "train", "a2": "train", "b1": "val", "b2": "val"}),
        (
            "voc_lists_subfolders",
            {f"Annotations/cam{c}/f{f}": split for c, split in ((1, "train"), (2, "val")) for f in (1, 2)},
        ),
    ],
)
def test_published_lists_put_every_image_in_its_split(shared_data: Path, case: str, splits: dict[str, str]) -> None:
    source = open_source(shared_data / "field_cases" / case / "d")
    rows = rows_of(source)
    assert {key: row["split"] for key, row in rows.items()} == splits
    assert all(row["path"] and row["defects"] == [] for row in rows.values())
    assert source.findings == []


def test_what_lists_leave_open_is_said_of_each_image_and_line(shared_data: Path) -> None:
    source = open_source(shared_data / "field_cases/voc_lists_overlap/d")
    rows = rows_of(source)
    assert {key: row["split"] for key, row in rows.items()} == {
        "a1": "train",
        "a2": "train",
        "b1": "train",  # in one split: never trained on and measured on
        "b2": "val",
        "c1": None,
    }
    assert {key: row["defects"] for key, row in rows.items() if row["defects"]} == {
        "b1": ["in_two_lists: in the lists of train and val, taken for train"],
        "c1": ["in_no_list: in none of train.txt, val.txt"],
    }
    assert source.findings == [
        ("listed_twice", "ImageSets/Main/train.txt", "line 3 lists 'a1' again"),
        ("listed_without_image", "ImageSets/Main/train.txt", "line 5, 'ghost', fits no image"),
    ]


def test_the_lists_of_all_of_fod_a(shared_data: Path) -> None:
    """4 of its 33,793 images stand in both lists, 66 lines repeat another of their list, 70 images are in none."""
    folder = shared_data / "fod_a/full_split_lists"
    files = [folder / "Annotations" / f"{number:06d}.xml" for number in range(33793)]
    lists = SplitLists(folder, [folder / "test.txt", folder / "trainval.txt"])
    found = lists.place(files)
    kinds = Counter(note.split(":")[0] for notes in found.notes.values() for note in notes)
    kinds.update(str(kind) for kind, *_ in lists.findings())
    assert kinds == {"in_two_lists": 4, "listed_twice": 66, "in_no_list": 70}
    listed = [set((folder / f"{split}.txt").read_text().split()) for split in ("test", "trainval")]
    expected = [
        "test" if name in listed[0] else "trainval" if name in listed[1] else None
        for name in (f"{number:06d}" for number in range(33793))
    ]
    assert found.splits == expected


@pytest.mark.parametrize(
    "line",
    [
        "a 1",
        "  a 1\t",
        '"a 1"',
        "'a 1'",
        "a 1.jpg",
        "a 1.JPEG",
        "a 1.xml",
        "./a 1",
        "JPEGImages/a 1.jpg",
        "./JPEGImages/a 1.png",
        "Annotations\\a 1.xml",
        "..\\JPEGImages\\a 1.jpg",
        "data/other/JPEGImages/a 1.jpg",
        "/home/me/pics/a 1.jpg",
        "C:\\Users\\me\\a 1.jpg",
        "A 1",
        "a%201.jpg",
        "\ufeffa 1",
    ],
)
def test_a_line_names_its_image_in_many_ways(tmp_path: Path, line: str) -> None:
    lists = {"train.txt": f"{line}\r\n\r\n", "val.txt": "b\r\n"}
    found, kinds = placed(tmp_path, ["Annotations/a 1", "Annotations/a", "Annotations/b"], lists)
    assert found == {"a 1": "train", "a": None, "b": "val"}
    assert kinds == {"in_no_list": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_forms_and_line_ends(tmp_path: Path, encoding: str, form: str, end: str) -> None:
    name = "Zürich-é"
    form = "NFC" if encoding == "cp1252" else form  # it has no combining letters
    text = unicodedata.normalize(form, end.join([name, "b", ""]))  # type: ignore[arg-type]
    found, kinds = placed(tmp_path, [f"Annotations/{name}", "Annotations/b"], {"train.txt": text.encode(encoding)})
    assert set(found.values()) == {"train"}
    assert not kinds


@pytest.mark.parametrize("content", [b"\xff\xfea\x00\xd8", b"ab\x00\x81\xff\n", b"\x81\x8d\n"])
def test_a_list_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"val\.txt: is no text in .* Save it as UTF-8"):
        placed(tmp_path, ["Annotations/a"], {"val.txt": content})


@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "koi8-r"])
def test_a_list_in_an_encoding_that_cannot_be_told_is_named(tmp_path: Path, encoding: str) -> None:
    name = "чашка" if encoding == "koi8-r" else "杯"
    with pytest.raises(InputError, match=r"train\.txt: is not UTF-8, and as cp1252 its line 2, .* Save it as UTF-8"):
        placed(tmp_path, ["Annotations/a", f"Annotations/{name}"], {"train.txt": f"a\n{name}\n".encode(encoding)})


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.txt", "train"),
        ("Train.txt", "train"),
        ("TRAIN.TXT", "train"),
        ("training.txt", "train"),
        ("train2012.txt", "train"),
        ("val.txt", "val"),
        ("valid.txt", "val"),
        ("validation.txt", "val"),
        ("Validation.txt", "val"),
        ("test_2007.txt", "test"),
        ("trainval.txt", "trainval"),
        ("default.txt", None),
    ],
)
@pytest.mark.parametrize("folder", ["ImageSets/Main", "imagesets/main", "ImageSets"])
def test_a_list_is_known_by_its_name(tmp_path: Path, name: str, split: str | None, folder: str) -> None:
    found, kinds = placed(tmp_path, ["Annotations/a"], {name: "a\n"}, folder)
    assert found == {"a": split}
    assert not kinds


def test_lists_of_classes_count_only_where_there_are_no_others(tmp_path: Path) -> None:
    """VOC's have a name and -1, 0 or 1 in each line; VoTT writes no others, with suffixes."""
    files = ["Annotations/a", "Annotations/b"]
    beside = {"cup_train.txt": "a -1\nb  1\n", "my cup_val.txt": "a  0\n", "train.txt": "a\n", "val.txt": "b\n"}
    assert placed(tmp_path / "both", files, beside) == ({"a": "train", "b": "val"}, Counter())
    alone = {"cup_train.txt": "a.jpg 1\n", "dog_train.txt": "a.jpg -1\n", "cup_val.txt": "b.jpg -1\n"}
    assert placed(tmp_path / "alone", files, alone) == ({"a": "train", "b": "val"}, Counter())


def test_subsets_of_other_names_are_lists_and_other_texts_are_none(tmp_path: Path) -> None:
    files = ["Annotations/a", "Annotations/b", "Annotations/c", "Annotations/d"]
    lists = {"Train.txt": "a\n", "Site_A.txt": "b\ngone\n", "train_aug.txt": "a\nc\n", "classes.txt": "cup\ndog\n"}
    found, kinds = placed(tmp_path / "lists", files, lists)
    assert found == {"a": "train", "b": None, "c": "train", "d": None}
    assert kinds == {"listed_without_image": 1, "in_no_list": 1}  # gone, d
    found, kinds = placed(tmp_path / "none", ["train/a", "val/b"], {"classes.txt": "cup\ndog\n"})
    assert found == {"a": "train", "b": "val"}  # by their folders
    assert not kinds


def test_columns_are_told_from_names_with_blanks(tmp_path: Path) -> None:
    """A list none of whose lines is a name as a whole has columns: PaddleDetection's image and annotation."""
    files = ["Annotations/a", "Annotations/a 1", "Annotations/b", "Annotations/c"]
    lists = {"train.txt": "a 1\na -1\n", "val.txt": "JPEGImages/b.jpg Annotations/b.xml\nJPEGImages/c.jpg\tc.xml\n"}
    found, kinds = placed(tmp_path, files, lists)
    assert found == {"a 1": "train", "b": "val", "c": "val", "a": None}
    assert kinds == {"listed_without_image": 1, "in_no_list": 1}  # "a -1": the list has whole names


def test_the_same_name_in_two_folders(tmp_path: Path) -> None:
    """The path decides; a bare name is that of the file at the top, and fits none where there are only others."""
    files = ["Annotations/f", "Annotations/cam1/f", "Annotations/cam2/f", "Annotations/cam1/g", "Annotations/cam2/g"]
    lists = {"train.txt": "f\ncam1/f.jpg\ng\n", "val.txt": "JPEGImages/cam2/f.jpg\ncam3/f\n"}
    found, kinds = placed(tmp_path, files, lists)
    assert {key.removeprefix("Annotations/"): split for key, split in found.items()} == {
        "f": "train",
        "cam1/f": "train",
        "cam2/f": "val",
        "cam1/g": None,
        "cam2/g": None,
    }
    assert kinds == {"listed_without_image": 2, "in_no_list": 2}


def test_of_a_line_that_fits_several_images_no_similar_name_is_said(tmp_path: Path) -> None:
    lists = {"train.txt": "x/a\na\n"}
    _, kinds = placed(tmp_path, ["Annotations/x/a", "Annotations/y/a", "Annotations/z/a"], lists)
    assert kinds == {"listed_without_image": 1, "in_no_list": 2}
    ((_, _, said),) = VocSource(tmp_path, images=False).findings
    assert said == "line 2, 'a', fits several images"


def test_folders_count_where_a_line_is_taken_loosely_too(tmp_path: Path) -> None:
    files = ["Annotations/cam1/f", "Annotations/cam2/f"]
    lists = {"train.txt": "old/JPEGImages/CAM1/F.JPG\n", "val.txt": "Cam2\\f.jpg 1\n"}
    found, kinds = placed(tmp_path, files, lists)
    assert found == {"Annotations/cam1/f": "train", "Annotations/cam2/f": "val"}
    assert not kinds


def test_one_list_over_datasets_of_two_years(tmp_path: Path) -> None:
    files = ["VOC2007/Annotations/1", "VOC2012/Annotations/1"]
    lists = {"train.txt": "VOC2007/JPEGImages/1.jpg\n", "val.txt": "data/VOC2012/JPEGImages/1.jpg\n"}
    found, kinds = placed(tmp_path, files, lists)
    assert found == {"VOC2007/Annotations/1": "train", "VOC2012/Annotations/1": "val"}
    assert not kinds


@pytest.mark.parametrize(
    ("lists", "split", "kinds"),
    [
        (("train", "trainval"), "train", {}),
        (("val", "trainval"), "val", {}),
        (("train", "val", "trainval"), "train", {"in_two_lists": 1}),
        (("trainval", "test"), "test", {"in_two_lists": 1}),
        (("val", "test"), "val", {"in_two_lists": 1}),
        (("valid", "val"), "val", {}),
        (("default", "train"), "train", {}),
    ],
)
def test_an_image_in_several_lists(tmp_path: Path, lists: tuple[str, ...], split: str, kinds: dict[str, int]) -> None:
    assert placed(tmp_path, ["Annotations/a"], {f"{name}.txt": "a\n" for name in lists}) == ({"a": split}, kinds)


def test_lines_for_images_without_annotation_are_no_defect_of_the_list(tmp_path: Path) -> None:
    write(tmp_path / "Annotations/a.xml", name="a.jpg", image=str(tmp_path / "JPEGImages/a.jpg"))
    (tmp_path / "JPEGImages/b.jpg").write_bytes((tmp_path / "JPEGImages/a.jpg").read_bytes())
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\nb\nc\n")
    source = open_source(tmp_path)
    assert {key: row["split"] for key, row in rows_of(source).items()} == {"a": "test", "JPEGImages/b.jpg": "test"}
    assert [said for _, _, said in source.findings] == ["line 3, 'c', fits no image"]


def test_the_most_similar_name_is_said_of_the_first_lines(tmp_path: Path) -> None:
    write(tmp_path / "Annotations/IMG_0001.xml")
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("".join(f"IMG_100{number}\n" for number in range(5)))
    said = [detail for *_, detail in open_source(tmp_path, images=False).findings]
    assert [detail.count("; the most similar name is 'IMG_0001'") for detail in said] == [1, 1, 1, 0, 0]
