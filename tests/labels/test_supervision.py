"""The three rules against loops that follow methods word by word, and hand-made cases."""

import pickle
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.labels.hierarchy import Hierarchy
from xray_det.labels.space import Class, LabelSpace
from xray_det.labels.supervision import Ragged, Supervision

NAMES = ("person", "man", "woman", "boy", "car", "face")
SPACE = LabelSpace(name="made", classes=tuple(Class(name=name, source_id=name) for name in NAMES))
TREE = Hierarchy(parents=(("man", "person"), ("woman", "person"), ("boy", "man")))
#: Dataset 0 labels people and cars, dataset 1 faces, dataset 2 has verified image labels.
LABELLED = np.array([[1, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0]], bool)
RULE = Supervision(labelled=LABELLED, ancestors=TREE.ancestors(SPACE))


def rows(*names: str) -> np.ndarray:
    return np.array([name in names for name in NAMES])


def ragged(*lists: list[int]) -> Ragged:
    return np.array([v for part in lists for v in part], np.int32), np.cumsum([0, *map(len, lists)]).astype(np.int64)


def test_a_dataset_knows_what_it_labels_and_an_image_what_was_verified() -> None:
    known = RULE.image_known(
        np.array([0, 1, 2, 2]),
        ragged([], [], [1], []),  # the third image: a man was seen
        ragged([], [], [4], [0]),  # and no car; in the fourth no person
    )
    assert known.tolist() == [
        rows("person", "car").tolist(),
        rows("face").tolist(),
        rows("man", "person", "car").tolist(),
        rows("person", "man", "woman", "boy").tolist(),
    ]
    boxed = RULE.image_known(np.array([2]), ragged([]), ragged([]), boxed=ragged([2]))
    assert boxed.tolist() == [rows("woman", "person").tolist()]


def test_of_a_class_that_is_not_exhaustively_boxed_nothing_is_known() -> None:
    """Four images in which women and cars are boxed; there are more women than boxes."""
    nothing, women = ragged([], [], [], []), ragged([2], [2], [2], [2])
    verified = ragged([], [0], [], [])  # the second image: every person is boxed, as a person at least
    absent = ragged([], [], [], [2])  # the fourth contradicts itself: unknown it stays
    known = RULE.image_known(np.array([2, 2, 0, 2]), verified, absent, ragged([2, 4], [2, 4], [], [2, 4]), women)
    assert known.tolist() == [
        rows("car").tolist(),
        rows("person", "car").tolist(),
        rows("person", "car").tolist(),  # a dataset that boxes every person; of women it never knew
        rows("car").tolist(),
    ]
    plain = RULE.image_known(np.array([2] * 4), verified, nothing, ragged([2], [2], [2], [2]))
    assert plain[0].tolist() == rows("woman", "person").tolist()


def test_a_box_teaches_its_ancestors_and_leaves_its_descendants_open() -> None:
    labels = np.stack([rows("man"), rows("person"), rows("man", "person"), rows("face"), rows("boy", "car")])
    image_known = np.stack([LABELLED[0], LABELLED[1]])
    box_image = np.array([0, 0, 0, 1, 1])
    targets, known = RULE.box_targets(labels, box_image, image_known)
    assert targets.dtype == np.float32
    assert targets.astype(bool).tolist() == [
        rows("man", "person").tolist(),
        rows("person").tolist(),
        rows("man", "person").tolist(),
        rows("face").tolist(),
        rows("boy", "man", "person", "car").tolist(),
    ]
    assert known.tolist() == [
        (~rows("boy")).tolist(),
        (~rows("man", "woman", "boy")).tolist(),
        (~rows("boy")).tolist(),  # the parent is implied by the man: a woman it is not
        rows(*NAMES).tolist(),
        rows(*NAMES).tolist(),
    ]
    alone = Supervision(labelled=LABELLED, ancestors=RULE.ancestors, positives_teach_all=False)
    _, known = alone.box_targets(labels, box_image, image_known)
    assert known.tolist() == [
        rows("man", "person", "car").tolist(),
        rows("person", "car").tolist(),
        rows("man", "person", "car").tolist(),
        rows("face").tolist(),
        rows("boy", "man", "person", "car", "face").tolist(),
    ]


def test_a_region_says_nothing_of_the_classes_it_may_hold() -> None:
    labels = np.stack([rows("man"), rows("car"), rows()])
    assert RULE.region_known(labels).tolist() == [
        rows("woman", "car", "face").tolist(),
        (~rows("car")).tolist(),
        rows().tolist(),  # an ignore region without a class may hold anything
    ]


Lists: TypeAlias = list[list[int]]
Scene: TypeAlias = tuple[Supervision, np.ndarray, Lists, Lists, Lists, list[tuple[int, set[int]]]]


@st.composite
def scenes(
    draw: st.DrawFn,
) -> Scene:
    count = draw(st.integers(1, 7))
    classes = st.integers(0, count - 1)
    # Edges go from a higher to a lower row, so there is no cycle.
    edges = {(max(a, b), min(a, b)) for a, b in draw(st.lists(st.tuples(classes, classes), max_size=8)) if a != b}
    reach = np.zeros((count, count), bool)
    for c in range(count):
        todo = [c]
        while todo:
            here = todo.pop()
            for a, b in edges:
                if a == here and not reach[c, b]:
                    reach[c, b] = True
                    todo.append(b)
    bits = draw(st.lists(st.booleans(), min_size=3 * count, max_size=3 * count))
    rule = Supervision(
        labelled=np.array(bits).reshape(3, count), ancestors=reach, positives_teach_all=draw(st.booleans())
    )
    dataset = np.array(draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)))
    some = st.lists(classes, max_size=3)
    positive, negative, unclear = ([draw(some) for _ in dataset] for _ in range(3))
    boxes = draw(st.lists(st.tuples(st.integers(0, len(dataset) - 1), st.sets(classes, min_size=1)), max_size=5))
    return rule, dataset, positive, negative, unclear, boxes


@given(scenes())
@settings(deadline=None)
def test_every_entry_follows_the_rules_one_at_a_time(
    scene: Scene,
) -> None:
    rule, dataset, positive, negative, unclear, boxes = pickle.loads(pickle.dumps(scene))
    known = rule.image_known(dataset, ragged(*positive), ragged(*negative), None, ragged(*unclear))
    assert known.dtype == bool
    above = rule.ancestors
    for b, d in enumerate(dataset):
        complete = set(positive[b]) - set(unclear[b])
        for c in range(rule.num_classes):
            itself = rule.labelled[d, c] or c in complete or c in negative[b]
            more = any(above[u, c] for u in unclear[b])
            spread = any(above[p, c] for p in complete) and not more
            absent = any(above[c, n] for n in negative[b])
            assert known[b, c] == (bool(itself or spread or absent) and c not in unclear[b])

    labels = np.array([[c in held for c in range(rule.num_classes)] for _, held in boxes], bool)
    labels = labels.reshape(len(boxes), rule.num_classes)
    box_image = np.array([image for image, _ in boxes], np.int64)
    targets, box_known = rule.box_targets(labels, box_image, known)
    region_known = rule.region_known(labels)
    for n, (image, held) in enumerate(boxes):
        specific = {c for c in held if not any(above[other, c] for other in held)}
        for c in range(rule.num_classes):
            is_positive = c in held or any(above[h, c] for h in held)
            is_open = any(above[c, s] for s in specific)
            assert targets[n, c] == float(is_positive)
            negative_here = rule.positives_teach_all or known[image, c]
            assert box_known[n, c] == bool(is_positive or (negative_here and not is_open))
            assert region_known[n, c] == (not is_positive and not is_open)


def test_parts_inside_their_subject_are_unknown_unless_verified() -> None:
    """A face is a part of a person, and so of a man; cars have no part here."""
    parts = np.zeros((6, 6), bool)
    parts[5, 0] = True
    rule = Supervision(labelled=np.ones((1, 6), bool), ancestors=TREE.ancestors(SPACE), parts=parts)
    verified = rule.verified(ragged([], [5], []), ragged([], [], [5]))
    assert verified[:, 5].tolist() == [False, True, True]
    labels = np.stack([rows("man"), rows("car"), rows("person", "car"), rows("face"), rows("man"), rows("man")])
    found = rule.inside_unknown(labels, np.array([0, 0, 0, 0, 1, 2]), verified)
    nothing = rows().tolist()
    face = rows("face").tolist()
    assert found.tolist() == [face, nothing, face, nothing, nothing, nothing]
    assert rule.image_known(np.zeros(3, int), ragged([], [], []), ragged([], [], [])).all()
    with pytest.raises(InputError, match="parts"):
        Supervision(labelled=LABELLED, ancestors=RULE.ancestors, parts=parts[:3])


def test_shapes_types_and_cycles_are_checked() -> None:
    with pytest.raises(InputError, match="shape"):
        Supervision(labelled=LABELLED, ancestors=np.zeros((3, 3), bool))
    with pytest.raises(InputError, match="boolean"):
        Supervision(labelled=LABELLED.astype(int), ancestors=RULE.ancestors)
    with pytest.raises(InputError, match=r"\[2\]"):
        Supervision(labelled=LABELLED, ancestors=np.diag(np.arange(6) == 2))


def test_an_object_is_counted_as_the_nearest_learned_classes_above_it() -> None:
    some = Supervision(labelled=LABELLED, ancestors=RULE.ancestors, learned=np.array([0, 1, 5]))
    assert [NAMES[row] for row in some.learned] == ["person", "man", "face"]
    assert some.stands_for.tolist() == [
        [True, False, False],  # person
        [False, True, False],  # man, although a person too
        [True, False, False],  # woman
        [False, True, False],  # boy: man is nearer than person
        [False, False, False],  # car
        [False, False, True],  # face
    ]
    assert some.of_learned(LABELLED).tolist() == LABELLED[:, [0, 1, 5]].tolist()
    assert RULE.of_learned(LABELLED) is LABELLED
    with pytest.raises(InputError, match="no class is learned"):
        Supervision(labelled=LABELLED, ancestors=RULE.ancestors, learned=np.array([], np.int64))
