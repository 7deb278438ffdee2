"""Twins found by hashing equal those found by comparing every pair."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data import duplicates
from xray_det.data.duplicates import across_splits, nearest_within, same_bytes


def test_same_bytes_names_each_copy_after_the_first() -> None:
    pictures = ["a", "b", "a", "c", "b", "a"]
    sha1 = np.array([hashlib.sha1(p.encode()).digest() for p in pictures], "S20")
    twins = same_bytes(sha1)
    assert list(zip(twins.row, twins.other, strict=True)) == [(2, 0), (4, 1), (5, 0)]


def near_hashes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Hashes of which many lie within a few bits of one another."""
    centres = rng.integers(0, 2**64, 6, dtype=np.uint64)
    flips = np.zeros(n, np.uint64)
    for _ in range(6):
        flips ^= np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
    return centres[rng.integers(0, 6, n)] ^ np.where(rng.random(n) < 0.3, np.uint64(0), flips)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), distance=st.integers(0, 7), candidates=st.sampled_from([1, 7, 2_000_000]))
def test_nearest_equals_all_pairs(seed: int, distance: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    query, base = near_hashes(rng, 30), near_hashes(rng, 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "_CANDIDATES", candidates)
        row, bits = nearest_within(query, base, distance)
    for k, q in enumerate(query.tolist()):
        apart = [bin(q ^ b).count("1") for b in base.tolist()]
        if min(apart) <= distance:
            assert (row[k], bits[k]) == (apart.index(min(apart)), min(apart))
        else:
            assert (row[k], bits[k]) == (-1, -1)


def test_the_image_of_the_smaller_split_is_named() -> None:
    #              train train train train val  val  test none
    splits = np.array([0, 0, 0, 0, 1, 1, 2, -1])
    hashes = np.array([0b1, 0xF000, 0xFF0000, 7 << 40, 0xF001, 99 << 50, 99 << 50, 0b1], np.uint64)
    exact = across_splits(hashes, splits, distance=0)
    assert list(zip(exact.row, exact.other, strict=True)) == [(6, 5)]  # the train/none pair is in one split only
    near = across_splits(hashes, splits, distance=1)
    assert list(zip(near.row, near.other, near.distance, strict=True)) == [(4, 1, 1), (6, 5, 0)]


def test_identical_pictures_do_not_fill_a_bucket() -> None:
    black = np.zeros(20_000, np.uint64)  # compared pair by pair these would be 4e8 comparisons
    row, bits = nearest_within(black, black, 3)
    assert not row.any()
    assert not bits.any()
