"""Unification on the label spaces as they are published, and on made ones where classes must not meet."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.labels.unify import ALIASES, normalise, unify, unify_hierarchies

Read = Callable[[str], LabelSpace]


def made(name: str, *names: str) -> LabelSpace:
    return LabelSpace(name=name, classes=tuple(Class(name=n, source_id=str(i)) for i, n in enumerate(names)))


@pytest.fixture
def published(shared_data: Path) -> dict[str, LabelSpace]:
    spaces = {}
    for name, file in {
        "v1": "objects365/objects365_v1_categories.json",
        "v2": "objects365/objects365_v2_categories.json",
        "corrected": "objects365/objects365_v2_categories_corrected_names.json",
        "coco": "label_spaces/coco_categories.json",
    }.items():
        rows = json.loads((shared_data / file).read_text())
        classes = tuple(Class(name=row["name"], source_id=str(row["id"])) for row in rows)
        spaces[name] = LabelSpace(name=name, classes=classes)
    spaces["voc"] = made("voc", *(shared_data / "label_spaces/voc.names").read_text().split())
    with (shared_data / "open_images/class-descriptions-boxable.csv").open(newline="") as stream:
        classes = tuple(Class(name=name, source_id=label) for label, name in csv.reader(stream))
    spaces["oid"] = LabelSpace(name="oid", classes=classes)
    return spaces


@pytest.mark.parametrize("name", ["v1", "v2", "corrected", "coco", "voc", "oid"])
def test_no_two_classes_of_a_published_space_meet(published: dict[str, LabelSpace], name: str) -> None:
    unified = unify({name: published[name]})
    assert len(unified.space) == len(published[name])
    assert unified.maps[name].tolist() == list(range(len(published[name])))
    assert [c.source_id for c in unified.space.classes] == [c.source_id for c in published[name].classes]


def test_objects365_is_matched_by_name_whatever_the_ids_and_the_spelling(published: dict[str, LabelSpace]) -> None:
    corrected = unify({"v2": published["v2"], "corrected": published["corrected"]})
    assert len(corrected.space) == 365
    same_id = {c.source_id: row for row, c in enumerate(published["v2"].classes)}
    for row, cls in zip(corrected.maps["corrected"], published["corrected"].classes, strict=True):
        assert row == corrected.maps["v2"][same_id[cls.source_id]], cls.name

    both = unify({"v2": published["v2"], "v1": published["v1"]})
    at = {
        space: {normalise(c.name): both.maps[space][i] for i, c in enumerate(published[space].classes)}
        for space in both.maps
    }
    exact = set(at["v1"]) & set(at["v2"])
    assert len(exact) > 290
    assert all(at["v1"][name] == at["v2"][name] for name in exact)
    for v1, v2 in {"balloon": "ballon", "camel": "campel", "pine apple": "pineapple", "tv": "moniter/tv"}.items():
        assert at["v1"][v1] == at["v2"][v2]
    shared = set(both.maps["v1"].tolist()) & set(both.maps["v2"].tolist())
    assert len(both.space) == 365 + 365 - len(shared)
    assert len(shared) > len(exact) + 20, "the alias table finds the renamed ones"


def test_voc_lies_within_coco(published: dict[str, LabelSpace]) -> None:
    unified = unify({"coco": published["coco"], "voc": published["voc"]})
    assert len(unified.space) == 80
    names = [unified.space.names[row] for row in unified.maps["voc"]]
    assert names[:3] == ["airplane", "bicycle", "bird"]
    assert names[-1] == "tv"
    assert "tv (also called tvmonitor): coco, voc" in unified.report()
    assert unified.report()[0] == "80 classes from coco 80, voc 20"


def test_merges_agree_with_a_hand_made_table(published: dict[str, LabelSpace], shared_data: Path) -> None:
    """UniDet's manually made space: what meets here also meets there, but for names only ours tells apart."""
    unified = unify({name: published[name] for name in ("oid", "v2", "coco")})
    row_of = {
        name: {normalise(c.name): int(unified.maps[name][i]) for i, c in enumerate(published[name].classes)}
        for name in unified.maps
    }
    checked, apart = 0, []
    with (shared_data / "label_spaces/unidet/manual.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            columns = {"oid": "OID_name", "v2": "obj365_boxable_name", "coco": "coco_boxable_name"}
            cells = {name: normalise(line[column] or "") for name, column in columns.items()}
            rows = {row_of[name][cell] for name, cell in cells.items() if cell in row_of[name]}
            checked += len([cell for cell in cells.values() if cell]) > 1
            if len(rows) > 1:
                apart.append(line["key"])
    assert checked > 180
    assert len(apart) <= 15, apart


def test_the_alias_table_is_normal_and_has_no_chains() -> None:
    assert all(normalise(name) == name for pair in ALIASES.items() for name in pair)
    assert not set(ALIASES.values()) & set(ALIASES)


def test_names_meet_whatever_their_case_and_blanks() -> None:
    unified = unify(
        {
            "a": made("a", "Formula  1 ", "Cat"),
            "b": made("b", "dog", "formula 1", "Pedestrian"),
            "c": made("c", "PERSON"),
        }
    )
    assert unified.space.names == ("Formula 1", "Cat", "dog", "Pedestrian")
    assert {name: rows.tolist() for name, rows in unified.maps.items()} == {"a": [0, 1], "b": [2, 0, 3], "c": [3]}
    assert unified.maps["a"].dtype == np.int32
    assert unified.space.classes[3] == Class(name="Pedestrian", source_id="b/2", aliases=("PERSON",))


def test_merging_can_be_off() -> None:
    spaces = {"a": made("a", "Cat", "person"), "b": made("b", "cat")}
    unified = unify(spaces, merge=False)
    assert unified.space.names == ("a/Cat", "a/person", "b/cat")
    assert unified.maps["b"].tolist() == [2]


def test_a_class_that_joins_two_others_joins_them_all() -> None:
    joining = LabelSpace(name="c", classes=(Class(name="x", source_id="0", aliases=("kitty", "feline")),))
    unified = unify({"a": made("a", "kitty", "dog"), "b": made("b", "feline"), "c": joining})
    assert unified.space.names == ("kitty", "dog")
    assert [rows.tolist() for rows in unified.maps.values()] == [[0, 1], [0], [0]]


@pytest.mark.parametrize("names", [("Person", "Pedestrian"), ("tea pot", "dog", "Teapot"), ("Bus", "bus ")])
def test_two_classes_of_one_dataset_never_meet_in_silence(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        unify({"other": made("other", "person"), "mine": made("mine", *names)})
    for name in ("mine", repr(names[0]), repr(names[-1])):
        assert name in str(caught.value)


def test_hierarchies_are_joined_at_shared_classes() -> None:
    spaces = {"a": made("a", "man", "person"), "b": made("b", "Person", "animal", "thing")}
    unified = unify(spaces)
    a = Hierarchy(parents=(("0", "1"),))
    b = Hierarchy(parents=(("0", "unlisted"), ("unlisted", "1")))
    ancestors = unify_hierarchies(unified, {"a": a, "b": b}, spaces)
    pairs = {(unified.space.names[c], unified.space.names[p]) for c, p in np.argwhere(ancestors)}
    assert pairs == {("man", "person"), ("man", "animal"), ("person", "animal")}
    assert not unify_hierarchies(unified, {"a": None, "b": None}, spaces).any()
    with pytest.raises(InputError, match="man"):
        unify_hierarchies(
            unify({"a": spaces["a"], "c": spaces["a"]}),
            {"a": a, "c": Hierarchy(parents=(("1", "0"),))},
            {"a": spaces["a"], "c": spaces["a"]},
        )


def test_open_images_keeps_its_hierarchy(published: dict[str, LabelSpace], shared_data: Path) -> None:
    tree = json.loads((shared_data / "open_images/bbox_labels_600_hierarchy.json").read_text())
    hierarchy = Hierarchy.from_open_images(tree)
    spaces = {"coco": published["coco"], "oid": published["oid"]}
    unified = unify(spaces)
    ancestors = unify_hierarchies(unified, {"coco": None, "oid": hierarchy}, spaces)
    rows = unified.maps["oid"]
    np.testing.assert_array_equal(ancestors[np.ix_(rows, rows)], hierarchy.ancestors(published["oid"]))
    names = unified.space.row_of_name
    assert ancestors[names["Man"], names["person"]], "COCO's person is the parent of Open Images' Man"
