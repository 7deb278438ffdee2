"""Label spaces: order, unique names and ids, JSON and back."""

import pytest

from xray_det.errors import InputError
from xray_det.labels.space import Class, LabelSpace


def test_rows_follow_the_order_given() -> None:
    space = LabelSpace(name="d", classes=(Class(name="dog", source_id="18"), Class(name="cat", source_id="17")))
    assert space.names == ("dog", "cat")
    assert space.row_of_id == {"18": 0, "17": 1}
    assert space.row_of_name == {"dog": 0, "cat": 1}


def test_json_round_trip() -> None:
    space = LabelSpace(
        name="d", classes=(Class(name="dog", source_id="18", super_category="animal", aliases=("hound",)),)
    )
    assert LabelSpace.from_json(space.to_json()) == space


@pytest.mark.parametrize(
    ("second", "field"), [(Class(name="dog", source_id="2"), "name"), (Class(name="cat", source_id="1"), "source_id")]
)
def test_two_classes_of_one_name_or_id_are_refused(second: Class, field: str) -> None:
    with pytest.raises(InputError, match=f"share the {field}"):
        LabelSpace(name="d", classes=(Class(name="dog", source_id="1"), second))


@pytest.mark.parametrize(
    "half",
    [
        Class(name="\ud83d", source_id="2"),
        Class(name="a", source_id="\udc00"),
        Class(name="a", source_id="2", aliases=("b", "c\udfff")),
        Class(name="a", source_id="2", super_category="\ud800"),
    ],
)
def test_half_of_a_utf16_pair_is_no_name(half: Class) -> None:
    with pytest.raises(InputError, match="holds half of a UTF-16 pair") as caught:
        LabelSpace(name="d", classes=(Class(name="dog", source_id="1"), half))
    str(caught.value).encode()
    LabelSpace(name="d", classes=(Class(name="\U0001f436", source_id="1"),))  # both halves are a dog
