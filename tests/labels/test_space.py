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
