"""Windows of any size, cut anywhere, give what json.loads gives; anything cut off is refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.formats.json_stream import stream_arrays, top_level_arrays
from xray_det.errors import InputError

TEXT = st.text('ab"\\{}[],:é\n \t', max_size=6)
LEAF = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | TEXT
VALUE = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
OBJECTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=4), max_size=6)
KEY = st.sampled_from(['info"}', "x", "y\\", "licenses"])
DOCUMENT = st.tuples(
    st.dictionaries(KEY, VALUE, max_size=3), OBJECTS, OBJECTS, st.permutations(["other", "images", "annotations"])
)
TYPES = {"images": list[dict[str, Any]], "annotations": list[dict[str, Any]]}


def document(parts: Any) -> dict[str, Any]:
    """The drawn values under their keys, in the drawn order."""
    other, images, annotations, order = parts
    made: dict[str, Any] = {}
    for key in order:
        made |= other if key == "other" else {key: images if key == "images" else annotations}
    return made


def read(file: Path, window: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key, first, items in stream_arrays(file, TYPES, window):
        assert first == len(found.setdefault(key, []))
        found[key] += items
    return found


@settings(max_examples=150, deadline=None)
@given(DOCUMENT, st.integers(1, 200), st.sampled_from([None, 0, 2]), st.booleans())
def test_any_window_gives_what_json_gives(
    tmp_path_factory: pytest.TempPathFactory, parts: Any, window: int, indent: int | None, ascii_only: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(document(parts), indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    whole = json.loads(file.read_text(encoding="utf-8"))
    # repr: NaN is not equal to itself
    assert repr(read(file, window)) == repr({key: value for key, value in whole.items() if key in TYPES})


@settings(max_examples=120, deadline=None)
@given(DOCUMENT, st.integers(1, 200), st.data())
def test_a_file_cut_anywhere_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, parts: Any, window: int, data: st.DataObject
) -> None:
    raw = json.dumps(document(parts)).encode()
    file = tmp_path_factory.getbasetemp() / "cut.json"
    file.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    with pytest.raises(InputError, match=r"cut\.json: byte \d+"):
        read(file, window)


def test_an_element_far_larger_than_the_window_with_many_objects_inside(tmp_path: Path) -> None:
    inside = [{"k": {"}": i}} for i in range(5000)]
    file = tmp_path / "big.json"
    file.write_text(json.dumps({"images": [{"a": inside}, {"b": 1}], "annotations": []}))
    assert read(file, 1 << 10) == {"images": [{"a": inside}, {"b": 1}], "annotations": []}


def test_infinity_and_nan_are_read_as_python_reads_them(tmp_path: Path) -> None:
    class Box(msgspec.Struct):
        bbox: tuple[float, float, float, float]
        name: str = ""

    file = tmp_path / "odd.json"
    file.write_text('{"annotations": [{"bbox": [1, 2, 3, 4]}, {"bbox": [Infinity, -Infinity, NaN, 5], "name": "NaN"}]}')
    ((_, _, items),) = stream_arrays(file, {"annotations": list[Box]})
    assert repr(items[1].bbox) == "(inf, -inf, nan, 5.0)"
    assert items[1].name == "NaN"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("[1]", "no object"),
        ('{"images": {}}', "no array"),
        ('{"images": [{"id": 1} {"id": 2}]}', "not JSON"),
        ('{"images": [{"id": 1},]}', "not JSON"),
        ('{"images": [{"id": 1,}]}', "not JSON"),
        ('{"images": []} {', "more follows"),
        ('{"images": [1, 2]}', "Expected `object`"),
        ('{"images": [' + "[" * 100_000, "cut off|not JSON"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(InputError, match=problem):
        read(file, 1 << 18)


def test_an_element_of_the_wrong_type_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    class Box(msgspec.Struct):
        bbox: tuple[float, float, float, float]

    file = tmp_path / "short.json"
    boxes: list[dict[str, list[int]]] = [{"bbox": [1, 2, 3, 4]} for _ in range(100)]
    boxes[77]["bbox"] = [1, 2, 3]
    file.write_text(json.dumps({"annotations": boxes}))
    with pytest.raises(InputError, match=r"annotations\[77\]\.bbox: Expected `array` of length 4"):
        list(stream_arrays(file, {"annotations": list[Box]}, 256))


def test_an_array_that_stands_twice_is_refused_also_where_one_is_empty(tmp_path: Path) -> None:
    """Some readers take the first, some the last, and all of both would be a third dataset."""
    file = tmp_path / "twice.json"
    for first, second in (("[]", '[{"id": 1}]'), ('[{"id": 1}]', '[{"id": 2}]')):
        file.write_text(f'{{"images": {first}, "info": 1, "info": 2, "images": {second}}}')
        with pytest.raises(InputError, match="the key 'images' stands twice"):
            read(file, 1 << 18)


def test_top_level_arrays_stop_where_the_window_stops(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"info": 1, "images": [], "sizes": {}, "annotations": [{"a": 1}] * 1000, "late": []}))
    assert list(top_level_arrays(file, 1000)) == ["images", "annotations"]
    assert list(top_level_arrays(file)) == ["images", "annotations", "late"]
    (tmp_path / "list.json").write_text("[]")
    assert not list(top_level_arrays(tmp_path / "list.json"))
