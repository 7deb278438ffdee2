"""The hierarchy against Open Images' own files, TensorFlow's expansion, and walks along the edges."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace

ROOT = "/m/0bl9f"


def space_of(ids: list[str]) -> LabelSpace:
    return LabelSpace(name="made", classes=tuple(Class(name=f"name of {x}", source_id=x) for x in ids))


def walked(edges: set[tuple[str, str]], start: str) -> set[str]:
    """Everything that edges lead to from ``start``: the oracle."""
    found: set[str] = set()
    todo = [start]
    while todo:
        here = todo.pop()
        ahead = {b for a, b in edges if a == here} - found
        found |= ahead
        todo += ahead
    return found


@pytest.mark.parametrize(
    ("file", "nodes", "labels", "several"),
    [
        ("bbox_labels_600_hierarchy.json", 848, 602, 83),
        ("challenge-2019-label500-hierarchy.json", 521, 501, 16),
    ],
)
def test_open_images_files_are_read_whole(shared_data: Path, file: str, nodes: int, labels: int, several: int) -> None:
    text = (shared_data / "open_images" / file).read_text()
    assert text.count('"LabelName"') == nodes
    hierarchy = Hierarchy.from_open_images(json.loads(text))
    assert len({*hierarchy.ids, ROOT} | {x["LabelName"] for x in json.loads(text)["Subcategory"]}) == labels
    above: dict[str, set[str]] = {}
    for below, over in hierarchy.parents + hierarchy.parts:
        above.setdefault(below, set()).add(over)
    # The published count takes the root for a parent too.
    for child in json.loads(text)["Subcategory"]:
        above.setdefault(child["LabelName"], set()).add(ROOT)
    assert sum(len(over) > 1 for over in above.values()) == several
    assert all(ROOT not in edge for edge in hierarchy.parents)
    assert Hierarchy.from_json(json.loads(json.dumps(hierarchy.to_json()))) == hierarchy

    ids = sorted({*hierarchy.ids})
    ancestors = hierarchy.ancestors(space_of(ids))
    for row, label in enumerate(ids):
        assert {ids[a] for a in np.flatnonzero(ancestors[row])} == walked(set(hierarchy.parents), label), label


def test_a_part_is_no_kind_of_its_subject(shared_data: Path) -> None:
    tree = json.loads((shared_data / "open_images" / "bbox_labels_600_hierarchy.json").read_text())
    hierarchy = Hierarchy.from_open_images(tree)
    space = space_of(["/m/04hgtk", "/m/02p0tk3", "/m/01g317", "/m/04yx4"])  # head, body, person, man
    head, body, person, man = range(4)
    assert np.argwhere(hierarchy.ancestors(space)).tolist() == [[man, person]]
    assert np.argwhere(hierarchy.part_of(space)).tolist() == [[head, body], [head, person], [body, person]]


def test_boxes_and_labels_expand_as_tensorflows_do(shared_data: Path) -> None:
    case = json.loads((shared_data / "metric_refs" / "oid_unit_cases.json").read_text())["hierarchical_expansion"]
    space = space_of(list("abcdef"))
    ancestors = Hierarchy.from_open_images(case["hierarchy"]).ancestors(space)

    def spread(rows: list[str], label_at: int, down: bool) -> set[str]:
        out = set()
        for row in rows:
            cells = row.split(",")
            reach = ancestors[:, "abcdef".index(cells[label_at])] if down else ancestors[ord(cells[label_at]) - 97]
            for label in {cells[label_at], *("abcdef"[i] for i in np.flatnonzero(reach))}:
                out.add(",".join([*cells[:label_at], label, *cells[label_at + 1 :]]))
        return out

    assert spread(case["bbox_rows"], 2, False) == set(case["expected_bbox_rows_any_order"])
    labels = case["label_rows"]
    negative, positive = [r for r in labels if r.endswith("0")], [r for r in labels if r.endswith("1")]
    assert spread(negative, 2, True) | spread(positive, 2, False) == set(case["expected_label_rows_any_order"])


@given(
    st.sets(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefgh")), max_size=14), st.permutations("abcde")
)
@settings(deadline=None)
def test_ancestors_run_through_ids_that_the_space_lacks(edges: set[tuple[str, str]], ids: list[str]) -> None:
    cyclic = any(x in walked(edges, x) for x in "abcdefgh")
    if cyclic:
        with pytest.raises(InputError, match="its own ancestor"):
            Hierarchy(parents=tuple(edges))
    else:
        ancestors = Hierarchy(parents=tuple(edges)).ancestors(space_of(ids))
        wanted = [[a in walked(edges, c) for a in ids] for c in ids]
        assert ancestors.tolist() == wanted


@pytest.mark.parametrize("tree", [[], {}, {"LabelName": 3}, {"LabelName": "a", "Subcategory": {"LabelName": "b"}}])
def test_other_json_is_refused(tree: object) -> None:
    with pytest.raises(InputError, match="hierarchy"):
        Hierarchy.from_open_images(tree)  # type: ignore[arg-type]
    cycle = {"LabelName": "r", "Subcategory": [{"LabelName": "a", "Subcategory": [{"LabelName": "a"}]}]}
    with pytest.raises(InputError, match=r"its own ancestor \(a\)"):
        Hierarchy.from_open_images(cycle)
