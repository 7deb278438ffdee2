"""The report on labels that meet, on a few drawn objects counted by hand, and on Open Images' own boxes."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from gt_sample import gt_sample
from made_shards import made_dataset
from rich.console import Console

from xray_det.data.figures import confusions
from xray_det.data.label_report import THRESHOLDS, LabelReport
from xray_det.data.manifest import Manifest
from xray_det.data.schema import SHARD
from xray_det.data.shards import write_shard
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace

PERSON, MAN, FACE, DOG, WOLF = range(5)
SPACE = LabelSpace(
    name="made", classes=tuple(Class(name=name, source_id=name) for name in ("person", "man", "face", "dog", "wolf"))
)
HIERARCHY = Hierarchy(parents=(("man", "person"),), parts=(("face", "person"),))
Drawn = list[tuple[int, list[int]]]  # boxes from the corner, 100 wide: their height and labels

IMAGES: list[Drawn] = [
    [(100, [MAN]), (98, [PERSON])],  # IoU 0.98
    [(100, [MAN, PERSON])],
    [(100, [PERSON])],
    [(100, [FACE]), (92, [PERSON])],
    [(100, [DOG]), (96, [WOLF])],
    [(100, [DOG, WOLF])],
    [(100, [DOG]), (75, [WOLF])],
    [(100, [WOLF])],
]


def report(folder: Path, images: list[Drawn], hierarchy: Hierarchy | None, **options: Any) -> LabelReport:
    rows = made_dataset(folder, "made", len(images), classes=5, shard_rows=len(images))
    for row, boxes in zip(rows, images, strict=True):
        row |= {
            "boxes": [[0, 0, 100, height] for height, _ in boxes],
            "labels": [labels for _, labels in boxes],
            "area": [100.0] * len(boxes),
            "flags": [0] * len(boxes),
        }
    manifest = Manifest.load(str(folder))
    write_shard(pa.Table.from_pylist(rows, schema=SHARD), manifest.shard_uris[0])
    return LabelReport.of(replace(manifest, space=SPACE, hierarchy=hierarchy), **options)


def printed(found: LabelReport) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(*found.tables())
    return console.file.getvalue()


def test_pairs_and_parents_by_hand(tmp_path: Path) -> None:
    found = report(tmp_path, IMAGES, HIERARCHY)
    numbers = found.to_json()
    assert numbers["thresholds"] == [0.7, 0.8, 0.9, 0.95, 1.0] == list(THRESHOLDS)
    assert numbers["objects"] == [3, 2, 1, 3, 4]
    assert numbers["overlaps"] == [4, 3, 3, 2, 0]
    pairs = {(pair["first"], pair["second"]): pair for pair in numbers["pairs"]}
    assert pairs == {
        pair: {"first": pair[0], "second": pair[1], "relation": relation, "objects": objects, "back_at_0.9": back}
        for pair, relation, objects, back in (
            (("man", "person"), "hierarchy", [1, 1, 1, 1, 0], 1),
            (("face", "person"), "part", [1, 1, 1, 0, 0], 1),
            (("dog", "wolf"), "", [3, 2, 2, 2, 1], 2),  # 2 of 3 dogs; of the wolves 2 of 4
        )
    }
    # persons: three boxes of their own, and two of men, one of them with both labels (man says it all);
    # one lone and one of a face lack
    assert numbers["parents"] == [{"class": "person", "boxes": 5, "lacking": [2, 2, 2, 2, 3]}]


def test_tables_keep_the_hierarchy_apart(tmp_path: Path) -> None:
    lines = printed(report(tmp_path, IMAGES, HIERARCHY)).splitlines()
    rows = [line.split() for line in lines if re.search(r"\(\d\)  |hierarchy:|%", line)]
    assert [" ".join(cell for cell in row if cell != "│") for row in rows] == [
        "dog (3) wolf 1 1 1 1 2 0.667 0.500",
        "face (1) person (part) 0 0 1 1 1 1.000 0.333",
        "of a hierarchy:",
        "man (2) person 0 1 1 1 1 0.500 0.333",
        "person 5 2 40.0%",
    ]


def test_nothing_to_report(tmp_path: Path) -> None:
    for number, images in enumerate(([[]], [[(100, [DOG])], [(50, [WOLF]), (100, [DOG])]])):
        found = report(tmp_path / str(number), images, None)
        assert printed(found).strip() == "made: no object carries two classes"
        assert found.to_json()["pairs"] == found.to_json()["parents"] == []
        confusions(found)


def test_gt_sample_shows_what_the_threshold_does(shared_data: Path, tmp_path: Path) -> None:
    found = LabelReport.of(gt_sample(shared_data, tmp_path))
    numbers = found.to_json()
    assert numbers["overlaps"] == [3823, 2991, 2379, 1810, 0]
    pairs = {(pair["first"], pair["second"]): pair["objects"] for pair in numbers["pairs"]}
    for (first, second), distinct, one_box in (
        (("Girl", "Woman"), [161, 155, 143, 126], 12),
        (("Sports uniform", "Man"), [40, 34, 29, 19], 1),
        (("Doughnut", "Bagel"), [27, 27, 27, 20], 0),
        (("Human head", "Human hair"), [108, 67, 27, 7], 0),
    ):
        assert pairs[first, second] == [*(one_box + count for count in distinct), one_box]
    related = [pair for pair in numbers["pairs"] if pair["relation"] == "hierarchy"]
    assert sum(pair["objects"][-1] for pair in related) == 0  # what the expansion had put on one box
    person = next(parent for parent in numbers["parents"] if parent["class"] == "Person")
    assert person == {"class": "Person", "boxes": 2881, "lacking": [1355, 1396, 1396, 1396, 1396]}
    left, right = confusions(found).axes
    assert left.get_yticklabels()[0].get_text() == "Sword → Dagger (11)"
    assert right.get_yticklabels()[0].get_text() == "Person (2,881)"
