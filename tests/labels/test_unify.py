"""Unification on the label spaces as they are published, and on made ones where classes must not meet."""

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.labels.unify import ALIASES, HOMONYMS, Unified, kept_apart, normalise, unify, unify_hierarchies

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
    unified = unify({name: published[name], "other": made("other", "unheard of")})
    assert len(unified.space) == len(published[name]) + 1
    assert unified.maps[name].tolist() == list(range(len(published[name])))
    alone = unify({name: published[name]})
    assert alone.maps[name].tolist() == list(range(len(published[name])))
    assert [c.source_id for c in alone.space.classes] == [c.source_id for c in published[name].classes]


def test_objects365_is_matched_by_name_whatever_the_ids_and_the_spelling(published: dict[str, LabelSpace]) -> None:
    corrected = unify({"v2": published["v2"], "corrected": published["corrected"]})
    assert len(corrected.space) == 365
    same_id = {c.source_id: row for row, c in enumerate(published["v2"].classes)}
    for row, cls in zip(corrected.maps["corrected"], published["corrected"].classes, strict=True):
        assert row == corrected.maps["v2"][same_id[cls.source_id]], cls.name


def test_objects365_has_other_classes_in_each_release(published: dict[str, LabelSpace], shared_data: Path) -> None:
    """v2 is no respelling of v1: its annotators' vocabulary of 443 names has classes of v1 beside those of v2."""
    both = unify({"v2": published["v2"], "v1": published["v1"]})
    rows = {name: set(both.maps[name].tolist()) for name in both.maps}
    own = {published["v1"].names[i] for i, row in enumerate(both.maps["v1"]) if row not in rows["v2"]}
    assert own == {
        "bar soap", "bread/bun", "dates", "eagle", "electronic stove and gas stove", "facial cleanser", "flashlight",
        "iron", "liquid soap", "llama", "mangosteen", "measuring cup", "microscope", "paper towel", "pitaya",
        "polar bear", "pomelo", "saw", "shampoo/shower gel", "shark", "starfish", "tangerine", "toothpaste",
        "tortoise/turtle", "toy", "vent",
    }  # fmt: skip
    assert len(both.space) == 365 + len(own) == 391
    samples = json.loads((shared_data / "objects365/data_samples.txt").read_text())
    vocabulary = {normalise(box["category"]) for sample in samples for box in sample["gtboxes"]}
    beside = (vocabulary & set(published["v1"].names)) - {normalise(name) for name in published["v2"].names}
    dropped = beside - {"washing machine"}  # the samples' shorter name of Washing Machine/Drying Machine
    assert len(dropped) == 11
    assert dropped < own


def test_voc_lies_within_coco(published: dict[str, LabelSpace]) -> None:
    unified = unify({"coco": published["coco"], "voc": published["voc"]})
    assert len(unified.space) == 80
    names = [unified.space.names[row] for row in unified.maps["voc"]]
    assert names[:3] == ["airplane", "bicycle", "bird"]
    assert names[-1] == "tv"
    assert "tv (also called tvmonitor): coco, voc" in unified.report()
    assert unified.report()[0] == "80 classes from coco 80, voc 20"


Member = tuple[str, str]


def manual_pairs(shared_data: Path) -> Iterator[tuple[Member, Member]]:
    """Of UniDet's manually made space, as (dataset, name). Its Objects365 names are v1's, in any case."""
    columns = {"oid": "OID_name", "v1": "obj365_boxable_name", "coco": "coco_boxable_name"}
    with (shared_data / "label_spaces/unidet/manual.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            cells = [(dataset, normalise(line[column])) for dataset, column in columns.items() if line[column]]
            yield from itertools.combinations(cells, 2)


def members(unified: Unified, published: dict[str, LabelSpace]) -> dict[int, set[Member]]:
    """Row -> the classes in it, as (dataset, normalised name)."""
    rows: dict[int, set[Member]] = {}
    for dataset, of_class in unified.maps.items():
        for cls, row in zip(published[dataset].classes, of_class.tolist(), strict=True):
            rows.setdefault(row, set()).add((dataset, normalise(cls.name)))
    return rows


def test_of_the_hand_made_pairs_all_are_found_but_nine(published: dict[str, LabelSpace], shared_data: Path) -> None:
    rows = members(unify({name: published[name] for name in ("oid", "v1", "coco")}), published)
    row_of = {member: row for row, group in rows.items() for member in group}
    # Open Images' table spells two of them otherwise
    spelt = {("oid", "grapes"): ("oid", "grape")}
    pairs = [tuple(spelt.get(member, member) for member in pair) for pair in manual_pairs(shared_data)]
    apart = {pair for pair in pairs if row_of[pair[0]] != row_of[pair[1]]}
    assert len(pairs) == 354
    assert apart == {
        (("oid", "dessert"), ("v1", "bread/bun")),  # different things, as the next two
        (("oid", "mouse"), ("v1", "mouse")),
        (("oid", "mouse"), ("coco", "mouse")),
        (("oid", "football"), ("v1", "american football")),  # Open Images has other codes too
        (("oid", "barrel"), ("v1", "barrel/bucket")),  # half of a double class, as the next
        (("oid", "ruler"), ("v1", "tape measure/ruler")),
        (("oid", "vegetable"), ("v1", "green vegetables")),  # a kind of the other, as the next two
        (("oid", "tart"), ("v1", "egg tart")),
        (("oid", "handgun"), ("v1", "gun")),
    }
    # Open Images' classes outside the hand-made space, and pairs that it overlooks.
    made = {pair for group in rows.values() for pair in itertools.permutations(group, 2) if pair[0][0] != pair[1][0]}
    extra = {(a[1], b[1]) for a, b in made if (a, b) not in pairs and (b, a) not in pairs and a[0] == "oid"}
    assert {(a, b) for a, b in extra if a != b} == {
        ("bird", "wild bird"), ("cattle", "cow"), ("computer mouse", "mouse"), ("flying disc", "frisbee"),
        ("hair dryer", "hair drier"), ("kitchen & dining room table", "dining table"), ("remote control", "remote"),
        ("suitcase", "luggage"), ("television", "tv"),
    }  # fmt: skip
    assert {a for a, b in extra if a == b} == {
        "balloon", "calculator", "chainsaw", "cheese", "eraser", "fish", "flashlight", "hammer", "parking meter",
        "pencil case", "scale", "stapler", "toothbrush", "toy",
    }  # fmt: skip


def test_coco_and_open_images_meet_as_in_another_hand_made_table(
    published: dict[str, LabelSpace], shared_data: Path
) -> None:
    """Large-UniDet's, whose ids tell the animal from the computer's mouse; it takes COCO's couch for a Loveseat."""
    unified = unify({"coco": published["coco"], "oid": published["oid"]})
    row_of = {cls.source_id: row for cls, row in zip(published["oid"].classes, unified.maps["oid"], strict=True)}
    apart, pairs = [], 0
    with (shared_data / "label_spaces/large_unidet/obj_det_mapping_540.csv").open(newline="") as stream:
        for line in csv.DictReader(stream):
            if line["oid_boxable_leaf"] and (coco := line["coco_boxable_name"]):
                pairs += 1
                if unified.maps["coco"][published["coco"].row_of_name[coco]] != row_of[line["oid_boxable_leaf"]]:
                    apart.append(coco)
    assert pairs > 55
    assert apart == ["couch"]


@pytest.mark.parametrize("release", ["v1", "v2", "corrected"])
def test_all_of_coco_but_its_balls_lies_within_objects365(published: dict[str, LabelSpace], release: str) -> None:
    unified = unify({"coco": published["coco"], "o365": published[release]})
    own = set(unified.maps["coco"].tolist()) - set(unified.maps["o365"].tolist())
    assert [unified.space.names[row] for row in own] == ["sports ball"]
    names = {published[release].names[i]: unified.space.names[row] for i, row in enumerate(unified.maps["o365"])}
    if release != "v1":
        renamed = ["Wild Bird", "Luggage", "Skiboard", "Orange/Tangerine", "Stuffed Toy", "Briefcase", "Tennis"]
        expected = ["bird", "suitcase", "skis", "orange", "teddy bear", "Briefcase", "Tennis"]
        assert [names[name] for name in renamed] == expected
        assert "bird: coco bird, o365 Wild Bird" in unified.merged
    else:
        assert (names["luggage"], names["suitcase"]) == ("suitcase", "briefcase"), "v1's suitcase is for papers"


def test_the_alias_table_is_normal_without_circles_and_each_name_is_published(
    published: dict[str, LabelSpace], shared_data: Path
) -> None:
    text = files("xray_det.labels").joinpath("aliases.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(text.splitlines()))
    for line in lines:
        assert all(normalise(line[column]) == line[column] for column in ("name", "alias", "beside")), line
        assert line["name"] != line["alias"]
        assert line["evidence"] in ("spelling", "synonym", "unidet", "learned", "lvis", "release")
    plain = [line["alias"] for line in lines if not line["beside"]]
    assert len(plain) == len(set(plain)) == len(ALIASES), "an alias of two names"
    assert not set(ALIASES.values()) & set(ALIASES), "a chain"
    assert len(HOMONYMS) == len({(h.alias, h.beside) for h in HOMONYMS}) == len(lines) - len(plain)
    lvis = json.loads((shared_data / "lvis/lvis_v1_train_cat_info.json").read_text())
    known = {normalise(name) for row in lvis for name in row["synonyms"]}
    known |= {normalise(cls.name) for space in published.values() for cls in space.classes}
    people = [shared_data / "wider_pedestrian/val.json", *(shared_data / "city_persons").rglob("*.json")]
    known |= {normalise(c["name"]) for f in people for c in json.loads(f.read_text()).get("categories", ())}
    strange = {line["alias"] for line in lines} | {line["beside"] for line in lines if line["beside"]}
    assert not strange - known
    by_hand = {frozenset(ALIASES.get(name, name) for _, name in pair) for pair in manual_pairs(shared_data)}
    one = {name for pair in by_hand if len(pair) == 1 for name in pair}
    assert {line["name"] for line in lines if line["evidence"] == "unidet" and not line["beside"]} <= one


@pytest.mark.parametrize("names", [("v2", "v1", "coco", "oid", "voc"), ("coco", "oid", "v1"), ("voc", "v2", "oid")])
def test_order_does_not_matter_and_uniting_again_changes_nothing(
    published: dict[str, LabelSpace], names: tuple[str, ...]
) -> None:
    unified = unify({name: published[name] for name in names})
    groups = {frozenset(group) for group in members(unified, published).values()}
    for order in itertools.islice(itertools.permutations(names), 1, None, 7):
        again = unify({name: published[name] for name in order})
        assert {frozenset(group) for group in members(again, published).values()} == groups
    again = unify({"all": unified.space, "other": made("other", "unheard of")})
    assert again.maps["all"].tolist() == list(range(len(unified.space)))
    assert not again.merged
    for name in names:  # a united class still meets each class that went into it
        meets = unify({"all": unified.space, name: published[name]})
        assert meets.maps[name].tolist() == unified.maps[name].tolist()
    assert not kept_apart(unified.space)


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


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("traffic light", "Traffic-Light"),
        ("hot_dog", " hot  dog "),
        ("object--vehicle", "Object_Vehicle"),
        ("Tape Measur/ Ruler", "tape measur /ruler"),
        ("caf\u00e9", "cafe\u0301"),
        ("Straße", "STRASSE"),
    ],
)
def test_one_name_written_in_two_ways(a: str, b: str) -> None:
    assert normalise(a) == normalise(b) == normalise(normalise(a))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("-", "_"),
        ("A-", "A"),
        ("-1", "1"),
        ("m\u00b2", "m2"),
        ("/", "-"),
        ("glass", "glasses"),
        ("Bat", "Baseball Bat"),
        ("Crane", "crane bird"),
        ("Mango", "Mangosteen"),
        ("pot", "potato"),
    ],
)
def test_names_that_are_merely_close_stay_apart(a: str, b: str) -> None:
    assert len(unify({"a": made("a", a), "b": made("b", b)}).space) == 2


def test_a_name_of_two_meanings_is_told_by_its_neighbours() -> None:
    coco, animals = made("coco", "mouse", "cat"), made("animals", "mouse", "computer mouse")
    unified = unify({"coco": coco, "animals": animals})
    assert unified.space.names == ("mouse", "cat", "mouse (animal)")
    assert [rows.tolist() for rows in unified.maps.values()] == [[0, 1], [2, 0]]
    assert unified.merged == ("mouse: coco mouse, animals computer mouse",)
    assert unify({"animals": animals}).space.names == ("mouse", "computer mouse"), "alone it keeps its names"
    told = unify({"coco": coco, "animals": animals}, aliases=[("computer mouse", "computer mouse"), ("mouse", "mouse")])
    assert [rows.tolist() for rows in told.maps.values()] == [[0, 1], [0, 2]]


def test_pairs_of_the_user_join_and_keep_apart() -> None:
    spaces = {"a": made("a", "Pedestrian", "Hut"), "b": made("b", "folk", "house", "person"), "c": made("c", "humans")}
    assert len(unify(spaces).space) == 5
    unified = unify(spaces, aliases=[("HUT", "house"), ("humans", "pedestrian")])
    assert [rows.tolist() for rows in unified.maps.values()] == [[0, 1], [2, 1, 0], [0]]
    assert unified.merged == ("Pedestrian: a Pedestrian, b person, c humans", "Hut: a Hut, b house")
    apart = unify(spaces, aliases=[("Pedestrian", "pedestrian")])
    assert [rows.tolist() for rows in apart.maps.values()] == [[0, 1], [2, 3, 4], [5]]
    reverse = unify(spaces, aliases=[("person", "pedestrian")])
    assert len(reverse.space) == 5, "the table says the same the other way round"


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ([("a", "b"), ("b", "c"), ("c", "A")], "'a' -> 'b' -> 'c' -> 'a'"),
        ([("x", "a"), ("a", "b"), ("b", "a")], "'a' -> 'b' -> 'a'"),
        ([("a", "b"), ("A", "c")], "'A' stands for 'b' and for 'c'"),
    ],
)
def test_pairs_that_contradict_each_other_are_refused(pairs: list[tuple[str, str]], told: str) -> None:
    with pytest.raises(InputError) as caught:
        unify({"s": made("s", "a", "b", "c", "x")}, aliases=pairs)
    assert caught.value.where == "data.aliases"
    assert told in str(caught.value)


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


def test_all_twins_are_named_with_what_keeps_them_apart() -> None:
    mine = made("mine", "couch", "Sofa", "cow", "cattle", "dog")
    assert unify({"mine": mine}).space == mine, "alone, nothing has to meet"
    spaces = {"mine": mine, "other": made("other", "couch")}
    with pytest.raises(InputError) as caught:
        unify(spaces)
    assert caught.value.problem == "'couch' and 'Sofa'; 'cow' and 'cattle' would become one class"
    told = '[["Sofa", "Sofa"], ["cattle", "cattle"]]'
    assert told in caught.value.remedy
    apart = unify(spaces, aliases=[(alias, name) for alias, name in json.loads(told)])
    assert [rows.tolist() for rows in apart.maps.values()] == [[0, 1, 2, 3, 4], [0]]


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
