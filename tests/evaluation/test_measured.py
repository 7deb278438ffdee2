"""A validation's numbers survive being kept, and what is not one is refused by the name of its file."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.evaluation import open_images
from xray_det.evaluation.measured import ClassRow, Measured, class_rows

Make = Callable[..., Any]
SHARES = st.floats(0, 1)
ROWS = st.builds(ClassRow, name=st.text(), count=st.integers(0, 10**9), ap=st.none() | SHARES)


@given(st.dictionaries(st.text(), SHARES), st.dictionaries(st.text(), st.lists(ROWS).map(tuple)))
def test_a_validation_survives_its_json(metrics: dict[str, float], classes: dict[str, tuple[ClassRow, ...]]) -> None:
    measured = Measured(metrics=metrics, classes=classes)
    text = json.dumps({"phase": 0, "step": 12, **measured.to_json()}, allow_nan=False)
    assert Measured.from_json(json.loads(text)) == measured


def test_what_is_not_defined_is_null_in_json() -> None:
    kept = Measured(metrics={"val/AP": math.nan}).to_json()
    assert kept == {"metrics": {"val/AP": None}, "classes": {}}
    assert math.isnan(Measured.from_json(kept).metrics["val/AP"])


def test_classes_come_with_their_training_counts(truth_of: Make, detected_of: Make) -> None:
    """Three classes: found, missed, without truth."""
    boxes = [(0, 0, [0, 0, 5, 5], 0), (0, 1, [20, 0, 25, 5], 0)]
    result = open_images.evaluate(truth_of(boxes, images=1, classes=3), detected_of([(0, 0, [0, 0, 5, 5], 0.9)]))
    names = result.space.names
    assert class_rows(result, np.array([7, 0, 2])) == (
        ClassRow(name=names[0], count=7, ap=1.0),
        ClassRow(name=names[1], count=0, ap=0.0),
        ClassRow(name=names[2], count=2, ap=None),
    )
    with pytest.raises(InputError, match="2 for 3 classes"):
        class_rows(result, np.array([7, 0]))


ROW = {"name": "a", "count": 1, "ap": 0.5}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "metrics"),
        ({"metrics": {}}, "classes"),
        ({"metrics": {"val/AP": "high"}, "classes": {}}, "high"),
        ({"metrics": {}, "classes": {"d/coco": [{"name": "a"}]}}, "count"),
        ({"metrics": {}, "classes": {"d/coco": [{**ROW, "ap": 1.5}]}}, r"class a: an average precision of 1\.5"),
        ({"metrics": {}, "classes": {"d/coco": [{**ROW, "ap": math.nan}]}}, "class a: an average precision of nan"),
        ({"metrics": {}, "classes": {"d/coco": [{**ROW, "count": -1}]}}, "class a: a count of -1"),
        ({"metrics": {}, "classes": []}, "no validation"),
        ([], "no validation"),
    ],
)
def test_what_is_no_validation_is_refused_with_its_file(value: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        Measured.from_json(value, "run/validations/phase-0-epoch-1.json")
    assert caught.value.where == "run/validations/phase-0-epoch-1.json"
