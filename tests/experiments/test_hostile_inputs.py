"""What people are sent: each is read, put into quarantine, or refused by the name of the file; none hangs the program,
fills the memory, ends in a traceback, or tells the terminal what to do."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scripts import load

from xray_det.data.manifest import Manifest
from xray_det.errors import InputError

#: Bytes of a hole: no memory holds them, and no disk is needed.
HOLE = 1 << 40
DEEP = "[" * 200_000 + "]" * 200_000
DIGITS = {"20": "9" * 20, "400": "9" * 400, "5000": "9" * 5000}

Make = Callable[[Path], None]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A read that waits for ever, as that of a pipe does, is an error after a while."""

    def stop(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32), "white").save(path, "JPEG")


def coco(*swaps: tuple[str, str], names: Sequence[str] = ("cup",)) -> Make:
    """A COCO dataset of three images, whose JSON text has been changed; each has a box of every class."""

    def make(folder: Path) -> None:
        document = {
            "images": [{"id": n, "file_name": f"p{n}.jpg", "width": 48, "height": 32} for n in range(3)],
            "categories": [{"id": 1 + k, "name": name} for k, name in enumerate(names)],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 1 + k, "bbox": [2, 3, 10, 12], "area": 120, "iscrowd": 0}
                for n in range(3)
                for k in range(len(names))
            ],
        }
        text = json.dumps(document)
        for old, new in swaps:
            assert old in text
            text = text.replace(old, new, 1)
        (folder / "annotations").mkdir(parents=True)
        (folder / "annotations" / "instances_train.json").write_text(text)
        for n in range(3):
            image(folder / "images" / f"p{n}.jpg")

    return make


def voc(folder: Path, number: int = 3) -> None:
    (folder / "Annotations").mkdir(parents=True)
    for n in range(number):
        image(folder / "JPEGImages" / f"p{n}.jpg")
        (folder / "Annotations" / f"p{n}.xml").write_text(
            f"<annotation><filename>p{n}.jpg</filename><size><width>48</width><height>32</height></size><object>"
            "<name>cup</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>22</ymax></bndbox></object>"
            "</annotation>"
        )


def open_images(
    first: str = "p0", *, classes: str = "/m/1,cup\n", listed: str | None = None, hierarchy: str | None = None
) -> Make:
    """An Open Images release of three images, of which the first goes by another id."""

    def make(folder: Path) -> None:
        folder.mkdir()
        rows = "".join(f"{name},/m/1,0.1,0.5,0.1,0.6\n" for name in (first, "p1", "p2"))
        (folder / "train-annotations-bbox.csv").write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\n" + rows)
        (folder / "class-descriptions-boxable.csv").write_text(classes)
        if listed is not None:
            (folder / "train-images.csv").write_text(f"ImageID,Subset\n{listed},train\np1,train\n")
        if hierarchy is not None:
            (folder / "hierarchy.json").write_text(hierarchy)
        for n in range(3):
            image(folder / "train" / f"p{n}.jpg")

    return make


def replaced(make: Make, name: str, by: Callable[[Path], Any]) -> Make:
    """A dataset, one of whose files is something else."""

    def made(folder: Path) -> None:
        make(folder)
        path = folder / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        by(path)

    return made


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def hole(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(HOLE)


def hole_in_json(path: Path) -> None:
    path.write_text('{"images": [{"id": 1, "file_name": "')
    os.truncate(path, HOLE)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


def ingest(make: Make, tmp_path: Path) -> Manifest:
    make(tmp_path / "source")
    script = load("ingest")
    script.main(script.Args(source=(tmp_path / "source",), out=str(tmp_path / "out"), max_quarantined=1.0))
    return Manifest.load(str(tmp_path / "out"))


JSON = "annotations/instances_train.json"
IMAGE, XML, LIST = "JPEGImages/p0.jpg", "Annotations/p0.xml", "ImageSets/Main/train.txt"

QUARANTINED: dict[str, tuple[Make, str]] = {
    "a pipe as image": (replaced(voc, IMAGE, pipe), "unreadable_image"),
    "a device as image": (replaced(voc, IMAGE, device), "unreadable_image"),
    "a socket as image": (replaced(voc, IMAGE, unix_socket), "unreadable_image"),
    "an image of a terabyte": (replaced(voc, IMAGE, hole), "unreadable_image"),
    "a folder for an image": (coco(("p0.jpg", "annotations")), "missing_image"),
    "a pipe that JSON names": (replaced(coco(), "images/p0.jpg", pipe), "missing_image"),
    "a terabyte that JSON names": (replaced(coco(), "images/p0.jpg", hole), "unreadable_image"),
    "a name longer than a file's": (coco(("p0.jpg", "x" * 300 + ".jpg")), "missing_image"),
    "a path longer than a file's": (coco(("p0.jpg", "x/" * 3000 + "y.jpg")), "missing_image"),
    "no name": (coco(("p0.jpg", "")), "missing_image"),
    "an id .": (open_images("."), "missing_image"),
    "an id ./": (open_images("./"), "missing_image"),
    "an id of 300 letters": (open_images("x" * 300), "missing_image"),
    "an id of 200,000 letters": (open_images("x" * 200_000), "missing_image"),
}


@pytest.mark.parametrize("case", QUARANTINED)
def test_an_image_is_put_into_quarantine(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, kind = QUARANTINED[case]
    manifest = ingest(make, tmp_path)
    assert manifest.quarantined == {kind: 1}
    assert manifest.images == 2
    assert len(capsys.readouterr().out) < 5000, "the example is shortened"


REFUSED: dict[str, tuple[Make, str]] = {
    "JSON from a pipe": (replaced(coco(), JSON, pipe), "instances_train.json: cannot be read .*named pipe"),
    "JSON from a second pipe": (replaced(coco(), "annotations/instances_val.json", pipe), "instances_val.json"),
    "JSON from a device": (replaced(coco(), JSON, device), "instances_train.json: cannot be read .*device"),
    "JSON that is gone": (replaced(coco(), JSON, lambda p: p.symlink_to("nowhere")), "instances_train.json"),
    "a hole in JSON": (replaced(coco(), JSON, hole_in_json), "instances_train.json: byte 36.*zero byte"),
    "XML from a pipe": (replaced(voc, XML, pipe), "p0.xml: cannot be read .*named pipe"),
    "XML from a device": (replaced(voc, "Annotations/p1.xml", device), "p1.xml: cannot be read .*device"),
    "XML of a terabyte": (replaced(voc, XML, hole), "p0.xml: cannot be read .*bytes, more than"),
    "a list from a pipe": (replaced(voc, LIST, pipe), "train.txt: cannot be read .*named pipe"),
    "a list from a device": (replaced(voc, LIST, device), "train.txt: cannot be read .*device"),
    "a list of a terabyte": (replaced(voc, LIST, hole), "train.txt: cannot be read .*bytes, more than"),
    "classes from a pipe": (
        replaced(open_images(), "class-descriptions-boxable.csv", pipe),
        "boxable.csv: cannot be read",
    ),
    "classes of a terabyte": (replaced(open_images(), "class-descriptions-boxable.csv", hole), "boxable.csv"),
    "boxes from a device": (
        replaced(open_images(), "val-annotations-bbox.csv", device),
        "val-annotations-bbox.csv: cannot be",
    ),
    "a hierarchy from a pipe": (replaced(open_images(), "hierarchy.json", pipe), "hierarchy.json: cannot be read"),
    "a deep hierarchy": (
        open_images(hierarchy='{"LabelName": "/m/0", "Subcategory": [' * 200_000 + "]}" * 200_000),
        "hierarchy.json: .*nested too deeply",
    ),
    "half a character in a hierarchy": (
        open_images(hierarchy='{"LabelName": "/m/0", "Subcategory": [{"LabelName": "\\ud800"}]}'),
        "hierarchy.json: .*surrogates",
    ),
    "a hierarchy of digits": (
        open_images(hierarchy='{"LabelName": "/m/0", "x": ' + DIGITS["5000"] + "}"),
        "hierarchy.json: not valid JSON",
    ),
    "a deep annotation": (coco(('"area": 120', f'"area": 120, "x": {DEEP}')), f"{JSON}: byte .*nested too deeply"),
    "a deep key": (coco(('"images"', '"\\x": 1, "images"')), "source"),
    "half a character in a class": (coco(('"cup"', '"c\\ud800p"')), JSON),
    "half a character beside NaN": (
        coco(('"id": 0', '"id": "\\ud800"'), ('"width": 48', '"width": NaN')),
        f"{JSON}: byte .*surrogates",
    ),
    "a field of 200,000 letters in a list": (open_images(listed="x" * 200_000), "train-images.csv: line 2: not CSV"),
    "a class of 200,000 letters": (open_images(classes="/m/1," + "x" * 200_000), "boxable.csv: line 1: not CSV"),
    "a quote without end": (open_images(classes='/m/1,"cup\n' + "x" * 200_000), "boxable.csv: line .*not CSV"),
    "an id of 300,000 letters": (open_images("x" * 3_000_000), "train-annotations-bbox.csv"),
    "an id ..": (open_images(".."), "'..' leaves the dataset's folder"),
    "an id with a zero byte": (open_images("p\0"), r"'p\\x00' leaves the dataset's folder"),
    "XML of a strange name": (replaced(voc, "Annotations/a\x1b[31m\nb.xml", lambda p: p.write_text("<a")), "a.x1b"),
    "5,000 digits": (coco(('"image_id": 0', f'"image_id": {DIGITS["5000"]}')), r"annotations\[0\].image_id"),
    "400 digits in a box": (coco(("[2", "[" + DIGITS["400"])), r"annotations\[0\].bbox"),
    "400 digits in an area beside NaN": (coco(("120", DIGITS["400"]), ("[2, 3", "[2, NaN")), f"{JSON}: "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, said = REFUSED[case]
    with pytest.raises(InputError) as error:
        ingest(make, tmp_path)
    assert re.search(said, str(error.value)), str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 16_000
    assert not (tmp_path / "out" / "manifest.json").exists()


READ: dict[str, Make] = {
    "a width of 400 digits": coco(('"width": 48', f'"width": {DIGITS["400"]}')),
    "a width of 20 digits": coco(('"width": 48', f'"width": {DIGITS["20"]}')),
    "an id of 20 digits": coco(('"id": 0', f'"id": {DIGITS["20"]}'), ('"image_id": 0', f'"image_id": {DIGITS["20"]}')),
    "an id of 400 digits": coco(
        ('"id": 0', f'"id": {DIGITS["400"]}'), ('"image_id": 0', f'"image_id": {DIGITS["400"]}')
    ),
    "a deep description": coco(('"annotations"', f'"info": {DEEP}, "annotations"')),
    "a blank name in a list": open_images(listed=""),
    "a dot in a list": open_images(listed="."),
    "a pipe of no concern": replaced(voc, "notes.fifo", pipe),
}


@pytest.mark.parametrize("case", READ)
def test_the_rest_is_read(case: str, tmp_path: Path) -> None:
    manifest = ingest(READ[case], tmp_path)
    assert manifest.images == 3
    assert not manifest.quarantined


#: And how they are shown.
NAMES = {
    "cup [/]": "cup [/]",
    "[red]x[/bold]": "[red]x[/bold]",
    ":smiley:": ":smiley:",
    "\x1b[31m\u202e": "\\x1b[31m\\u202e",
    "a\nb\x9b2J": "a\\nb\\x9b2J",
    "Ba$$in": "Ba$$in",
}


def test_names_are_printed_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In every table and line of ingest and describe, at 80 columns."""

    def made(folder: Path) -> None:
        coco(names=[*NAMES, "n" * 200])(folder)
        (folder / "images" / "p1.jpg").write_bytes(b"")

    ingest(made, tmp_path)
    script = load("describe")
    script.main(script.Args(folders=(str(tmp_path / "out"),), out=tmp_path / "figures"))
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    tables = [line for line in printed.split("\n") if line[:1] in "┏┃┡│└"]
    for shown in NAMES.values():
        assert printed.count(shown) > 2, "head and tail, pairs, views"
    assert "".join(tables).count("n") > 3 * 200
    assert "…" not in "".join(tables).replace("group, …", "").replace("│    … │", ""), "nothing is cut"
    assert max(map(len, tables)) <= 80


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    voc(Path(folder))
    script = load("ingest")
    with pytest.raises(InputError, match=r"udcff: its name is not UTF-8. Rename"):
        script.main(script.Args(source=(Path(folder),), out=str(tmp_path / "out")))
    with pytest.raises(InputError, match=r"udcff/out: the path is not UTF-8. Rename"):
        script.main(script.Args(source=(tmp_path,), out=f"{folder}/out"))


def test_a_file_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    def made(folder: Path) -> None:
        voc(folder)
        (folder / XML).rename(os.fsdecode(os.fsencode(folder) + b"/Annotations/\xff.xml"))

    with pytest.raises(InputError, match=r"udcff.xml: its name is not UTF-8. Rename"):
        ingest(made, tmp_path)


def test_the_limit_of_digits_is_pythons_own() -> None:
    assert sys.get_int_max_str_digits() < len(DIGITS["5000"])
