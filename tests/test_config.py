"""Configuration: JSON and back, one value by its path, and messages that name what is allowed."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.config import difference, fingerprint, from_dict, replace, to_dict
from xray_det.errors import InputError


class Norm(StrEnum):
    GROUP = "group"
    FROZEN = "frozen"


@dataclass(frozen=True, kw_only=True)
class Plain:
    pass


@dataclass(frozen=True, kw_only=True)
class Balanced:
    lam: float = 0.7

    def __post_init__(self) -> None:
        if not self.lam >= 0:
            raise InputError("Balanced.lam", f"{self.lam} is below 0", "Give 0 or more")


@dataclass(frozen=True, kw_only=True)
class Stage:
    epochs: int
    rule: Plain | Balanced = Plain()
    ratio: tuple[float, ...] | None = None
    train: Literal["all", "head"] = "all"


@dataclass(frozen=True, kw_only=True)
class Tree:
    name: str = "a"
    stages: tuple[Stage, ...] = (Stage(epochs=2),)
    side: tuple[int, int] = (800, 1333)
    norm: Norm = Norm.GROUP
    where: Path | None = None
    weight: dict[str, float] = field(default_factory=dict)
    clip: int | float | str = "off"
    amp: bool = False


FULL = Tree(
    stages=(Stage(epochs=1), Stage(epochs=3, rule=Balanced(lam=0.3), ratio=(0.5, 0.5), train="head")),
    norm=Norm.FROZEN,
    where=Path("/data"),
    weight={"oid": 2.0},
    clip=3,
)


def test_a_tree_survives_json_and_only_variants_carry_their_type() -> None:
    tree = json.loads(json.dumps(to_dict(FULL)))
    assert from_dict(Tree, tree) == FULL
    assert tree["stages"][1]["rule"] == {"type": "Balanced", "lam": 0.3}
    assert "type" not in tree
    assert "type" not in tree["stages"][1]
    assert from_dict(Plain | Balanced, {"type": "Balanced", "lam": 1}) == Balanced(lam=1.0)  # type: ignore[arg-type]
    assert from_dict(Tree, {}) == Tree(), "what is not given has its default"


stage = st.builds(
    Stage,
    epochs=st.integers(0, 99),
    rule=st.one_of(st.just(Plain()), st.builds(Balanced, lam=st.floats(0, 3))),
    ratio=st.none() | st.lists(st.floats(0, 1), max_size=3).map(tuple),
)
trees = st.builds(
    Tree,
    name=st.text(),
    stages=st.lists(stage, max_size=3).map(tuple),
    clip=st.integers() | st.floats(allow_nan=False) | st.text(),
    weight=st.dictionaries(st.text(), st.floats(allow_nan=False)),
)


@given(trees, trees)
@settings(deadline=None)
def test_any_tree_comes_back_and_the_fingerprint_tells_two_apart_exactly_when_they_differ(a: Tree, b: Tree) -> None:
    assert from_dict(Tree, json.loads(json.dumps(to_dict(a)))) == a
    same_text = json.dumps(to_dict(a), sort_keys=True) == json.dumps(to_dict(b), sort_keys=True)
    assert (fingerprint(a) == fingerprint(b)) == same_text
    assert (difference(to_dict(a), to_dict(b)) == []) == same_text


def test_an_integer_given_for_a_float_is_the_same_configuration() -> None:
    assert fingerprint(Balanced(lam=1)) == fingerprint(Balanced(lam=1.0)) == fingerprint({"lam": 1.0})


@pytest.mark.parametrize(
    ("path", "text", "read"),
    [
        ("stages.1.rule.lam", "0.25", 0.25),
        ("stages.0.epochs", "7", 7),
        ("stages.1.ratio", "0.2,0.8", (0.2, 0.8)),
        ("stages.1.ratio", "[1, 2]", (1.0, 2.0)),
        ("stages.1.ratio", "none", None),
        ("stages.1.ratio.0", "0.25", 0.25),
        ("stages.1.rule", "Plain", Plain()),
        ("stages.0.rule", '{"type": "Balanced", "lam": 2}', Balanced(lam=2.0)),
        ("stages.0.rule", Balanced(lam=2.0), Balanced(lam=2.0)),
        ("stages.0.train", "head", "head"),
        ("side", "600,1000", (600, 1000)),
        ("norm", "group", Norm.GROUP),
        ("where", "/x/none", Path("/x/none")),
        ("where", "null", None),
        ("weight.voc", "3", 3.0),
        ("clip", "5", 5),
        ("clip", "0.5", 0.5),
        ("clip", "on", "on"),
        ("amp", "true", True),
        ("name", "5", "5"),
        ("name", "none", "none"),
    ],
)
def test_text_is_read_as_the_type_of_the_field(path: str, text: object, read: object) -> None:
    changed = replace(FULL, path, text)
    node: object = changed
    for key in path.split("."):
        node = (
            node[int(key)] if isinstance(node, tuple) else node[key] if isinstance(node, dict) else getattr(node, key)
        )
    assert node == read
    assert type(node) is type(read)
    paths = [line.split(":")[0] for line in difference(to_dict(FULL), to_dict(changed))]
    assert all(p.startswith(path) or path.startswith(p) for p in paths), "nothing else has changed"


@pytest.mark.parametrize(
    ("path", "value", "names"),
    [
        ("stages.1.rule.lam", "-1", ["-1", "0 or more"]),
        ("stages.0.rule.lam", "0.5", ["Plain", "lam", "Balanced"]),
        ("stages.1.rule.lamda", "0.5", ["lamda", "lam"]),
        ("stages.1.rule", "Natural", ["Natural", "Plain", "Balanced"]),
        ("stages.1.rule", '{"type": "Nat"}', ["Nat", "Plain", "Balanced"]),
        ("stages.2.epochs", "1", ["2", "0 to 1"]),
        ("stages.0.epochs", "1.5", ["1.5", "int"]),
        ("stages.0.epochs", True, ["True", "int"]),
        ("stages.0.epochs.x", "1", ["x", "stages.0.epochs"]),
        ("stages.0.train", "tail", ["tail", "'all'", "'head'"]),
        ("norm", "batch", ["batch", "'group'", "'frozen'"]),
        ("side", "1,2,3", ["1", "int"]),
        ("side", "1,x", ["x", "int"]),
        ("side", "[1", ["JSON", "int"]),
        ("amp", "maybe", ["maybe", "bool"]),
        ("names", "x", ["names", "stages", "norm"]),
        ("", "x", ["empty"]),
    ],
)
def test_a_wrong_path_or_value_is_named_with_what_is_allowed(path: str, value: object, names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        replace(FULL, path, value)
    for name in names:
        assert name in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("tree", "names"),
    [
        ({"nam": "x"}, ["nam", "name"]),
        ({"name": 3}, ["name", "3", "str"]),
        ({"stages": [{"epochs": "3"}]}, ["stages.0.epochs", "'3'", "int"]),
        ({"stages": [{}]}, ["stages.0", "epochs"]),
        ({"stages": [{"epochs": 1, "rule": {"lam": 0.3}}]}, ["stages.0.rule.type", "Plain", "Balanced"]),
        ({"stages": {"epochs": 1}}, ["stages", "list"]),
        ({"amp": 1}, ["amp", "bool"]),
        ({"clip": None}, ["clip", "None"]),
    ],
)
def test_a_file_with_an_unknown_key_or_another_type_is_refused(tree: dict[str, object], names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        from_dict(Tree, tree)
    for name in names:
        assert name in str(caught.value), str(caught.value)


def test_the_difference_has_a_line_for_each_changed_value() -> None:
    other = dataclasses.replace(FULL, stages=(*FULL.stages, Stage(epochs=9)), side=(600, 1000))
    lines = difference(to_dict(FULL), to_dict(other))
    assert "side: [800, 1333] -> [600, 1000]" in lines
    assert "stages.2.epochs: (absent) -> 9" in lines
    assert len(lines) == 1 + 4
    assert difference({"lam": math.inf}, {"lam": 1.0}) == ["lam: Infinity -> 1.0"]
