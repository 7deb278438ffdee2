"""Bands by frequency, on made counts and on the Challenge's real ones."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.errors import InputError
from xray_det.labels.frequency import bands, expert_ranks, imbalance_magnitude, rank_bands, ranked


def test_bands_fall_and_leave_out_what_never_occurs() -> None:
    counts = np.array([5, 0, 100, 1, 5, 50, 2])
    split = {name: rows.tolist() for name, rows in bands(counts).items()}
    assert split == {"head": [2, 5], "middle": [0, 4], "tail": [6, 3]}
    assert imbalance_magnitude(counts) == 100.0
    assert math.isnan(imbalance_magnitude(np.zeros(3, int)))
    assert {name: rows.tolist() for name, rows in bands(np.zeros(3, int)).items()} == {
        "head": [],
        "middle": [],
        "tail": [],
    }


@given(st.lists(st.integers(0, 9), max_size=30), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_bands_part_the_classes_that_occur(values: list[int], a: float, b: float) -> None:
    counts = np.array(values, dtype=np.int64)
    parts = bands(counts, (min(a, b), max(a, b)))
    rows = np.concatenate(list(parts.values()))
    assert rows.tolist() == ranked(counts).tolist()
    assert sorted(rows.tolist()) == [row for row, value in enumerate(values) if value > 0]
    assert (np.diff(counts[rows]) <= 0).all()


def test_the_challenge_counts_have_the_published_skew(shared_data: Path) -> None:
    file = shared_data / "open_images" / "challenge_500_train_instance_counts.json"
    counts = np.array([row["instance_count"] for row in json.loads(file.read_text())["categories"]])
    assert imbalance_magnitude(counts) == pytest.approx(1_418_594 / 14)
    assert [len(rows) for rows in bands(counts).values()] == [167, 166, 167]
    assert counts[bands(counts)["tail"]].max() <= counts[bands(counts)["middle"]].min()


def test_impossible_input_is_refused() -> None:
    with pytest.raises(InputError, match="does not rise"):
        bands(np.array([1, 2]), (0.7, 0.3))
    with pytest.raises(InputError, match="-1"):
        bands(np.array([1, -1]))


def test_ranks_count_from_the_most_frequent_class() -> None:
    counts = np.array([5, 0, 100, 1, 5, 50, 2])  # ranks 1 to 6: rows 2, 5, 0, 4, 6, 3
    assert [rows.tolist() for rows in rank_bands(counts, [(5, 6), (2, 3)])] == [[6, 3], [5, 0]]
    for ranks, says in (
        ([(5, 7)], r"5-7 is no range of the 6 classes that occur"),
        ([(4, 3)], "4-3 is no range"),
        ([(0, 2)], "0-2 is no range"),
        ([(3, 5), (1, 3)], "1-3 and 3-5 overlap"),
    ):
        with pytest.raises(InputError, match=says):
            rank_bands(counts, ranks)


def test_experts_learn_the_papers_bands_or_the_middle_and_the_tail() -> None:
    assert expert_ranks(365) == ((151, 300), (301, 365))
    assert expert_ranks(40) == ((14, 27), (28, 40))
    assert expert_ranks(2) == ((2, 2),)
    for classes in range(3, 50):  # the same thirds as the bands that are reported
        counts = np.arange(classes, 0, -1)
        names = ("middle", "tail")
        expected = [bands(counts)[name].tolist() for name in names]
        assert [rows.tolist() for rows in rank_bands(counts, expert_ranks(classes))] == expected
