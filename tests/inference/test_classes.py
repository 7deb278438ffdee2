"""A detector's classes meet a dataset's by id, name or alias, and by nothing less."""

import pytest

from xray_det.errors import InputError
from xray_det.inference.classes import dataset_rows
from xray_det.labels.space import Class, LabelSpace
from xray_det.labels.unify import unify


def space(name: str, *names: str) -> LabelSpace:
    return LabelSpace(name=name, classes=tuple(Class(name=n, source_id=str(k)) for k, n in enumerate(names)))


A, B = space("a", "Person", "Apple", "Cup"), space("b", "cup ", "Pedestrian", "Zebra")


@pytest.mark.parametrize("merge", [True, False])
def test_each_dataset_finds_the_classes_it_gave(merge: bool) -> None:
    unified = unify({"a": A, "b": B}, merge=merge)
    for name, own in (("a", A), ("b", B)):
        rows = dataset_rows(unified.space, own, name)
        expected = {int(row): index for index, row in enumerate(unified.maps[name])}
        assert [int(r) for r in rows] == [expected.get(k, -1) for k in range(len(unified.space))]


def test_the_same_space_is_the_identity_even_where_names_are_odd() -> None:
    odd = space("odd", "monitor/tv", "tv")  # an alias pair: unify would refuse them together
    assert dataset_rows(odd, odd, "odd").tolist() == [0, 1]


def test_each_dataset_finds_the_classes_that_were_kept_apart_or_joined_by_hand() -> None:
    coco, objects = space("coco", "bird", "cow", "hut"), space("o365", "Wild Bird", "Cow", "House")
    unified = unify({"coco": coco, "o365": objects}, aliases=[("wild bird", "Wild Bird"), ("hut", "house")])
    assert unified.space.names == ("bird", "cow", "hut", "Wild Bird")
    assert dataset_rows(unified.space, coco, "coco").tolist() == [0, 1, 2, -1]
    assert dataset_rows(unified.space, objects, "o365").tolist() == [-1, 1, 2, 0]


def test_a_dataset_never_trained_on_meets_by_alias_and_a_foreign_one_is_refused() -> None:
    assert dataset_rows(A, space("c", "pedestrian", "cup"), "c").tolist() == [0, -1, 1]
    with pytest.raises(InputError, match="shares no class"):
        dataset_rows(A, space("c", "zebra"), "c")
    assert dataset_rows(A, space("c", "zebra"), "c", required=False).tolist() == [-1, -1, -1]
