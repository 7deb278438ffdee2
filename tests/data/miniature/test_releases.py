"""The written releases, read back with other tools: layouts, planted defects, who labels what, and the truth."""

import contextlib
import csv
import io
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from xray_det.data.doctor import examine
from xray_det.data.formats.source import open_source
from xray_det.data.miniature.glyphs import RELEASES, line_up
from xray_det.data.miniature.parameters import Miniature
from xray_det.data.miniature.releases import Releases, write
from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy

SMALL = Miniature(
    classes=16,
    images=160,
    validation_images=40,
    size=64,
    objects=(1, 4),
    look_alikes=2,
    look_alike_both=0.5,
    parents_without_leaf=0.3,
    least=4,
)
Boxes = dict[str, list[tuple[str, float, float, float, float]]]


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """The same images, of which annotators overlook a half of what is not the first class of an image."""
    return write(tmp_path_factory.mktemp("overlooked"), replace(SMALL, overlooked=0.5), progress=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return write(tmp_path_factory.mktemp("miniature"), SMALL, progress=False)


def coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def from_coco(path: Path) -> tuple[dict[str, dict], Boxes]:
    """file name -> image, and file name -> (class, x1, y1, x2, y2), read by pycocotools."""
    source = coco(path)
    names = {row["id"]: row["name"] for row in source.loadCats(source.getCatIds())}
    files = {row["id"]: row["file_name"] for row in source.dataset["images"]}
    boxes: Boxes = {file: [] for file in files.values()}
    for row in source.dataset["annotations"]:
        x, y, w, h = row["bbox"]
        boxes[files[row["image_id"]]].append((names[row["category_id"]].casefold(), x, y, x + w, y + h))
    return {row["file_name"]: row for row in source.dataset["images"]}, boxes


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def from_csv(root: Path, split: str) -> tuple[dict[str, dict], Boxes]:
    with (root / "class-descriptions-boxable.csv").open(newline="") as stream:
        names = dict(csv.reader(stream))
    boxes: Boxes = {path.name: [] for path in (root / "images" / split).iterdir()}
    images = {}
    for file in boxes:
        try:
            width, height = Image.open(root / "images" / split / file).size
        except OSError:
            width = height = 1
        images[file] = {"width": width, "height": height}
    for row in rows(root / f"{split}-annotations-bbox.csv"):
        file = f"{row['ImageID']}.jpg"
        w, h = images[file]["width"], images[file]["height"]
        edges = (float(row[key]) for key in ("XMin", "YMin", "XMax", "YMax"))
        scaled = [edge * scale for edge, scale in zip(edges, (w, h, w, h), strict=True)]
        boxes[file].append((names[row["LabelName"]].casefold(), *scaled))
    return images, boxes


def read(written: Releases, release: str, split: str) -> tuple[Path, dict[str, dict], Boxes]:
    if release == "objects365":
        root = written.objects365
        return (root, *from_coco(root / f"zhiyuan_objv2_{split}.json"))
    name = {"train": "train", "val": "validation"}[split]
    return (written.open_images / "images" / name, *from_csv(written.open_images, name))


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_overlooked_has_no_box_and_is_not_verified(
    written: Releases, partly: Releases, release: str, split: str
) -> None:
    (_, _, every), (_, _, some) = (read(which, release, split) for which in (written, partly))
    assert every.keys() == some.keys()
    if release == "objects365" or split == "val":
        assert some == every
        return
    assert all(set(some[file]) <= set(every[file]) for file in every)
    assert all(bool(some[file]) == bool(every[file]) for file in every), "the first class stays"
    missed = {file: {box[0] for box in every[file]} - {box[0] for box in some[file]} for file in every}
    assert sum(map(len, missed.values())) > 20
    names = dict(csv.reader((partly.open_images / "class-descriptions-boxable.csv").open(newline="")))
    said = rows(partly.open_images / "train-annotations-human-imagelabels-boxable.csv")
    verified = {(f"{row['ImageID']}.jpg", names[row["LabelName"]].casefold()) for row in said}
    assert not verified & {(file, name) for file, own in missed.items() for name in own}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_what_was_planted_is_there_and_nothing_else(written: Releases, release: str, split: str) -> None:
    root, images, boxes = read(written, release, split)
    assert len(images) == (80 if split == "train" else 20)
    found: Counter[str] = Counter()
    for file, image in images.items():
        try:
            with Image.open(root / file) as picture:
                assert picture.size == (image["width"], image["height"])
                picture.load()
        except OSError as error:
            found["unreadable_image" if "identify" in str(error) else "truncated_image"] += 1
        held = boxes[file]
        found["repeat"] += len(held) - len(set(held))
        for _, x1, y1, x2, y2 in set(held):
            found["no_area"] += not (x2 > x1 and y2 > y1)
            found["outside"] += x1 < 0 or y1 < 0 or x2 > image["width"] + 0.01 or y2 > image["height"] + 0.01
    planted = {"no_area": 3, "outside": 3, "repeat": 3, "truncated_image": 2, "unreadable_image": 1}
    assert +found == (planted if split == "train" else {})
    assert written.planted[release] == planted
    assert len({(root / file).read_bytes() for file in images}) == len(images)


@pytest.mark.parametrize("release", RELEASES)
def test_the_projects_own_reader_and_doctor_find_what_was_planted(written: Releases, release: str) -> None:
    folder = written.objects365 if release == "objects365" else written.open_images
    source = open_source(folder)
    assert source.format == {"objects365": "coco", "open_images": "open_images"}[release]
    assert source.exhaustive == (release == "objects365")
    found: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for batch in source.batches():
        seen = examine(batch, dataset=release, image_root=source.image_root, normalized=source.normalized)
        found.update({str(kind): count for kind, count in seen.repaired.items()})
        found.update(seen.quarantine["reason"].to_pylist())
        splits.update(seen.shard["split"].to_pylist())
    assert dict(found) == written.planted[release]
    assert dict(splits) == {"train": 77, "val": 20}


def test_open_images_files_have_the_official_headers(written: Releases, shared_data: Path) -> None:
    official = shared_data / "open_images/format_fixtures/mmdet"
    for mine, theirs in {
        "train-annotations-bbox.csv": "oidv6-train-annotations-bbox.csv",
        "train-annotations-human-imagelabels-boxable.csv": "annotations-human-imagelabels-boxable.csv",
    }.items():
        with (written.open_images / mine).open() as a, (official / theirs).open() as b:
            assert next(a) == next(b)
    tree = Hierarchy.from_open_images(json.loads((written.open_images / "bbox_labels_600_hierarchy.json").read_text()))
    with (written.open_images / "class-descriptions-boxable.csv").open(newline="") as stream:
        names = dict(csv.reader(stream))
    assert set(tree.ids) <= set(names)
    parent = {(names[child], names[parent]) for child, parent in tree.parents}
    glyphs = [glyph for glyph in line_up(SMALL) if "open_images" in glyph.labelled_by]
    assert parent == {(glyph.name, glyph.parent) for glyph in glyphs if glyph.parent} | {("Vowel", "Letter")}


def test_each_release_labels_its_own_classes_alone(written: Releases) -> None:
    assert len(written.exclusive) == 4, "0.4 of the 12 classes that are no look-alikes"
    assert set(written.exclusive.values()) == set(RELEASES)
    seen = {}
    for release in RELEASES:
        seen[release] = {
            name for s in ("train", "val") for held in read(written, release, s)[2].values() for name, *_ in held
        }
        for name, owner in written.exclusive.items():
            assert (name.casefold() in seen[release]) == (owner == release), name
    shared = {name.casefold() for name in written.classes[:-2] if name not in written.exclusive}
    assert shared <= seen["objects365"]
    assert shared <= seen["open_images"]
    assert {"letter", "vowel"} <= seen["open_images"]
    assert not {"letter", "vowel"} & seen["objects365"]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("release", RELEASES)
def test_every_published_label_is_true_and_the_truth_has_more(written: Releases, release: str) -> None:
    _, images, boxes = read(written, release, "val")
    truth_images, truth = from_coco(written.truth[release])
    by_name = {Path(file).name: held for file, held in truth.items()}
    assert len(truth_images) == len(images)
    published = 0
    for file, held in boxes.items():
        for name, *box in held:
            same = [overlap(tuple(box), tuple(other)) for label, *other in by_name[Path(file).name] if label == name]
            assert max(same) > 0.9
            published += 1
    names = {name for held in truth.values() for name, *_ in held}
    assert names == {name.casefold() for name in written.classes}
    assert sum(map(len, truth.values())) > 1.5 * published
    parents = {glyph.name.casefold(): glyph.ancestors for glyph in line_up(SMALL)}
    for held in truth.values():
        for name, *box in held:
            for parent in parents.get(name, ()):
                assert (parent.casefold(), *box) in held, "every ancestor has the same box"


def test_ids_of_the_truth_are_those_of_the_release(written: Releases) -> None:
    ids = {row["id"] for row in json.loads(written.truth["objects365"].read_text())["images"]}
    assert ids == {
        row["id"] for row in json.loads((written.objects365 / "zhiyuan_objv2_val.json").read_text())["images"]
    }
    ids = {row["id"] for row in json.loads(written.truth["open_images"].read_text())["images"]}
    assert ids == {path.stem for path in (written.open_images / "images/validation").iterdir()}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_image_labels_agree_with_the_boxes_and_never_deny_what_is_there(written: Releases, split: str) -> None:
    verified: dict[str, dict[str, int]] = {}
    for row in rows(written.open_images / f"{split}-annotations-human-imagelabels-boxable.csv"):
        mine = verified.setdefault(row["ImageID"], {})
        assert row["LabelName"] not in mine, "verified once"
        mine[row["LabelName"]] = int(row["Confidence"])
    boxed: dict[str, set[str]] = {image: set() for image in verified}
    for row in rows(written.open_images / f"{split}-annotations-bbox.csv"):
        boxed[row["ImageID"]].add(row["LabelName"])
    assert len(verified) == (80 if split == "train" else 20)
    for image, labels in verified.items():
        assert {label for label, there in labels.items() if there} == boxed[image]
    denied = [label for labels in verified.values() for label, there in labels.items() if not there]
    if split == "train":
        assert len(denied) == 4 * len(verified)
    else:
        with (written.open_images / "class-descriptions-boxable.csv").open(newline="") as stream:
            names = dict(csv.reader(stream))
        _, truth = from_coco(written.truth["open_images"])
        for file, held in truth.items():
            there = {name for name, *_ in held}
            denied_here = {names[label].casefold() for label, yes in verified[Path(file).stem].items() if not yes}
            assert not there & denied_here
            assert denied_here


def test_look_alikes_carry_both_labels_or_one_at_random(written: Releases) -> None:
    twins = {
        glyph.name.casefold(): line_up(SMALL)[glyph.twin].name.casefold() for glyph in line_up(SMALL) if glyph.twin
    }
    twins |= {other: name for name, other in twins.items()}
    both = single = 0
    first: Counter[bool] = Counter()
    for release in RELEASES:
        for held in read(written, release, "train")[2].values():
            for name, *box in set(held):
                if name not in twins:
                    continue
                pair = [b for other, *b in held if other == twins[name] and overlap(tuple(box), tuple(b)) >= 0.9]
                both += len(pair)
                single += not pair
                first[name < twins[name]] += not pair
                assert all(tuple(b) != tuple(box) for b in pair), "two boxes, not one with two labels"
    share = both / 2 / (both / 2 + single)
    assert abs(share - 0.5) < 4.5 * np.sqrt(0.25 / (both / 2 + single))
    assert abs(first[True] - single / 2) < 4.5 * np.sqrt(single / 4)
    assert single > 20


def test_a_letter_is_named_by_its_parent_in_a_share_of_the_images(written: Releases) -> None:
    """The parents occur as published boxes; about as often as they were asked to."""
    _, _, boxes = read(written, "open_images", "train")
    glyphs = {glyph.name.casefold(): glyph for glyph in line_up(SMALL)}
    parents = sum(name in ("letter", "vowel") for held in boxes.values() for name, *_ in held)
    leaves = sum(
        bool(glyphs[name].parent) and glyphs[name].twin is None
        for held in boxes.values()
        for name, *_ in held
        if name in glyphs
    )
    assert abs(parents / (parents + leaves) - 0.3) < 4.5 * np.sqrt(0.21 / 60)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_equal_parameters_give_equal_bytes_and_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    tiny = Miniature(
        classes=4, images=16, validation_images=4, size=48, look_alikes=1, defects=1, least=0, objects=(1, 2), seed=4
    )
    first = write(tmp_path / "a", tiny, progress=False)
    write(tmp_path / "b", tiny, progress=False)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    image = next((tmp_path / "a").rglob("*.jpg"))
    os.utime(image, (1, 1))
    assert write(tmp_path / "a", tiny, progress=False) == first
    assert image.stat().st_mtime == 1, "nothing is written again"
    with pytest.raises(InputError, match="seed: 4 -> 5"):
        write(tmp_path / "a", Miniature(**{**tiny.__dict__, "seed": 5}), progress=False)
    (tmp_path / "b" / "miniature.json").unlink()
    next((tmp_path / "b").rglob("*.jpg")).write_bytes(b"half")
    write(tmp_path / "b", tiny, progress=False)
    assert files(tmp_path / "a") == files(tmp_path / "b"), "an interrupted writing is done again"


def test_defects_need_images_to_be_planted_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="defects"):
        write(tmp_path, Miniature(classes=4, images=4, validation_images=2, least=0), progress=False)
