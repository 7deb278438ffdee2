"""Truth and detections as columns, from readers, shards and tables of detections."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xray_det.data.schema import DETECTIONS, PUBLISHED, SHARD, BoxFlag
from xray_det.errors import InputError
from xray_det.evaluation.columns import (
    detected_from_table,
    published_widths,
    truth_from_published,
    truth_from_shards,
)
from xray_det.labels.space import Class, LabelSpace

SPACE = LabelSpace(name="made", classes=(Class(name="cat", source_id="1"), Class(name="dog", source_id="2")))


def published(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    default = {
        "split": None,
        "path": None,
        "width": None,
        "height": None,
        "boxes": [],
        "area": None,
        "visible_boxes": None,
        "flags": [],
        "labels": [],
        "verified_positive": [],
        "verified_negative": [],
        "not_exhaustive": [],
        "defects": [],
    }
    return pa.RecordBatch.from_pylist([default | row for row in rows], schema=PUBLISHED)


def test_published_rows_keep_their_numbers() -> None:
    rows = [
        {
            "image_id": "10",
            "width": 64,
            "height": 48,
            "boxes": [[0, 0, 8, 8], [1, 2, 3, 5]],
            "flags": [0, int(BoxFlag.CROWD)],
            "labels": [1, 0],
            "area": [12.5, 3.0],
            "verified_negative": [0],
        },
        {"image_id": "9", "boxes": [[0, 0, 4, 4]], "flags": [4], "labels": [1], "verified_positive": [1]},
        {"image_id": "100"},
    ]
    batches = [published(rows[:1]), published(rows[1:])]
    truth = truth_from_published(batches, SPACE, exhaustive=True, normalized=False, widths=True)
    assert truth.image_ids == ("9", "10", "100")  # as numbers
    assert truth.image.tolist() == [0, 1, 1]
    assert truth.label.tolist() == [1, 1, 0]
    assert truth.boxes.tolist() == [[0, 0, 4, 4], [0, 0, 8, 8], [1, 2, 3, 5]]
    assert truth.area.tolist() == [16.0, 12.5, 3.0]  # published, else width x height
    assert truth.has(BoxFlag.CROWD).tolist() == [False, False, True]
    assert truth.has(BoxFlag.DIFFICULT).tolist() == [True, False, False]
    np.testing.assert_array_equal(truth.image_sizes, [[np.nan, np.nan], [64, 48], [np.nan, np.nan]])
    assert sorted(truth.verified.tolist()) == [[0, 1, 1], [1, 0, 0]]


def test_text_ids_are_ordered_as_text() -> None:
    rows = [{"image_id": i} for i in ("b", "10", "9")]
    truth = truth_from_published([published(rows)], SPACE, exhaustive=True, normalized=False, widths=False)
    assert truth.image_ids == ("10", "9", "b")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no image"),
        ([{"image_id": "a"}, {"image_id": "a"}], "'a' occurs twice"),
        ([{"image_id": "a", "boxes": [[0, 0, np.inf, 1]], "flags": [0], "labels": [0]}], "'a'.*not finite"),
    ],
)
def test_what_cannot_be_scored_is_named(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        truth_from_published([published(rows)], SPACE, exhaustive=True, normalized=False, widths=False)


@given(
    st.lists(
        st.tuples(
            st.decimals(-100, 5000, places=2).map(float),
            st.one_of(
                st.decimals(0, 3000, places=3).map(float),
                st.floats(0, 3000, allow_subnormal=False),
                st.integers(0, 5000).map(float),
            ),
        ),
        min_size=1,
    )
)
def test_widths_with_few_decimals_come_back_to_the_last_bit(pairs: list[tuple[float, float]]) -> None:
    x, w = np.array(pairs).T
    boxes = np.stack([x, x, x + w, x + w], axis=1)
    found = published_widths(boxes)
    np.testing.assert_allclose(found[:, 0], w, atol=1e-9)
    np.testing.assert_array_equal(found[:, 0] + x, x + w)  # the corner stays, whatever the width
    few = np.round(w, 3) == w
    np.testing.assert_array_equal(found[few, 0], w[few])


def shard(rows: Sequence[dict[str, Any]]) -> pa.Table:
    default = {
        "dataset": "made",
        "image": {"bytes": None, "path": "x.jpg"},
        "width": 64,
        "height": 64,
        "boxes": [],
        "area": [],
        "flags": [],
        "labels": [],
        "verified_positive": [],
        "verified_negative": [],
        "not_exhaustive": [],
    }
    return pa.Table.from_pylist([default | row for row in rows], schema=SHARD)


def test_a_shards_box_of_two_labels_is_two_rows_in_the_unified_classes() -> None:
    table = shard(
        [
            {
                "image_id": "b",
                "boxes": [[0, 0, 8, 8], [0, 0, np.nan, 1], [1, 1, 5, 5]],
                "area": [64, 0, 10],
                "flags": [2, 512, 256],
                "labels": [[0, 1], [0], [1]],
                "verified_negative": [1],
            },
            {"image_id": "a", "boxes": [[0, 0, 2, 2]], "area": [4], "flags": [0], "labels": [[0]]},
        ]
    )
    unified = LabelSpace(name="all", classes=tuple(Class(name=str(n), source_id=str(n)) for n in range(5)))
    truth = truth_from_shards(table, unified, rows=np.array([4, 2], np.int32), exhaustive=False)
    assert truth.image_ids == ("a", "b")
    assert truth.image.tolist() == [0, 1, 1, 1]
    assert truth.label.tolist() == [4, 4, 2, 2]  # the box that is not finite is left out, the repeat stays
    assert truth.boxes.tolist() == [[0, 0, 2, 2], [0, 0, 8, 8], [0, 0, 8, 8], [1, 1, 5, 5]]
    assert truth.area.tolist() == [4, 64, 64, 10]
    assert truth.has(BoxFlag.GROUP_OF).tolist() == [False, True, True, False]
    assert truth.verified.tolist() == [[1, 2, 0]]


def test_tables_of_detections_meet_the_truths_images() -> None:
    truth = truth_from_shards(shard([{"image_id": "a"}, {"image_id": "b"}]), SPACE, exhaustive=True)
    rows = {
        "image_id": ["b", "elsewhere", "a"],
        "dataset": ["made"] * 3,
        "boxes": [[[0, 0, 2, 4], [1, 1, 2, 2]], [[0, 0, 1, 1]], [[5, 5, 6, 6]]],
        "scores": [[0.5, 0.25], [0.9], [0.125]],
        "labels": [[0, 1], [0], [2]],
    }
    table = pa.table(rows, schema=DETECTIONS)
    detected = detected_from_table(table, truth, rows=np.array([1, -1, 0], np.int32))
    assert detected.image.tolist() == [1, 0]
    assert detected.label.tolist() == [1, 0]
    assert detected.scores.tolist() == [0.5, 0.125]
    assert detected.sizes.tolist() == [[2, 4], [1, 1]]
    with pytest.raises(InputError, match="none of 1 images"):
        detected_from_table(table.slice(1, 1), truth)
