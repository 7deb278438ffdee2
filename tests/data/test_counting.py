"""Statistics equal a count by hand in plain loops, and those of parts add up to those of the whole."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.counting import MOST_AN_IMAGE, Statistics
from xray_det.data.schema import SHARD, BoxFlag

C = 5


def random_rows(seed: int, images: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(images):
        n = int(rng.integers(0, 6)) if k else 230  # more boxes than the histogram has bins
        corner, span = rng.uniform(0, 60, (n, 2)), rng.uniform(0.01, 150, (n, 2))
        boxes = np.concatenate([corner, corner + span], 1).astype(np.float32)
        rows.append(
            {
                "image_id": str(k),
                "dataset": "d",
                "split": None,
                "image": {"bytes": None, "path": "x"},
                "width": int(rng.integers(1, 3000)),
                "height": int(rng.integers(1, 3000)),
                "boxes": boxes.tolist(),
                "area": rng.uniform(1, 20_000, n).tolist(),
                "flags": (1 << rng.integers(0, 10, n)).tolist(),
                "labels": [sorted(rng.choice(C, rng.integers(1, 4), replace=False).tolist()) for _ in range(n)],
                "verified_positive": [],
                "verified_negative": [],
                "not_exhaustive": [],
            }
        )
    return rows


def octave(size: float) -> int:
    return min(max(math.floor(math.log2(size) * 4), 0), 63)


def by_hand(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        f.name: np.zeros(getattr(Statistics.zero(C), f.name).shape, np.int64) for f in fields(Statistics)
    }
    for row in rows:
        found["images"] += 1
        found["widths"][octave(row["width"])] += 1
        found["heights"][octave(row["height"])] += 1
        held: set[int] = set()
        trained = 0
        for box, area, flags, labels in zip(row["boxes"], row["area"], row["flags"], row["labels"], strict=True):
            found["published_boxes"] += len(labels)
            for bit in range(16):
                found["flags"][bit] += len(labels) * bool(flags & 1 << bit)
            if flags & (BoxFlag.REPEAT | BoxFlag.NO_AREA):
                continue
            trained += 1
            held |= set(labels)
            found["regions"] += bool(flags & (BoxFlag.CROWD | BoxFlag.GROUP_OF | BoxFlag.DIFFICULT | BoxFlag.IGNORE))
            found["several_labels"] += len(labels) > 1
            for label in labels:
                found["instance_counts"][label] += 1
            size = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            found["box_sizes"][octave(size)] += 1
            found["relative_sizes"][min(int(size / math.sqrt(row["width"] * row["height"]) * 100), 99)] += 1
            found["coco_areas"][0 if area < 1024 else 1 if area < 9216 else 2] += 1
        found["boxes"] += trained
        found["boxes_an_image"][min(trained, MOST_AN_IMAGE)] += 1
        found["classes_an_image"][len(held)] += 1
        for label in held:
            found["image_counts"][label] += 1
    return found


def equal(a: Statistics, b: dict[str, Any]) -> None:
    for f in fields(Statistics):
        np.testing.assert_array_equal(getattr(a, f.name), b[f.name], err_msg=f.name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(0, 12), cut=st.integers(0, 12))
def test_equal_a_count_in_loops_and_add_up(seed: int, images: int, cut: int) -> None:
    rows = random_rows(seed, images)
    table = pa.Table.from_pylist(rows, schema=SHARD)
    expected = by_hand(rows)
    equal(Statistics.of(table, C), expected)
    equal(Statistics.of(table.slice(0, cut), C) + Statistics.of(table.slice(cut), C), expected)
    assert Statistics.of(table, C).flagged() == {
        str(flag.name).lower(): n for flag in BoxFlag if (n := expected["flags"][int(flag).bit_length() - 1])
    }


def test_imbalance_is_largest_over_smallest_of_the_classes_that_occur() -> None:
    rows = random_rows(3, 10)
    counts = by_hand(rows)["image_counts"]
    statistics = Statistics.of(pa.Table.from_pylist(rows, schema=SHARD), C)
    assert statistics.imbalance == pytest.approx(max(counts) / min(counts))
    assert math.isnan(Statistics.zero(C).imbalance)
