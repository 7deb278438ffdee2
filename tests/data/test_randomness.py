"""Numbers are a function of their key alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xray_det.data.randomness import Key, Purpose, uniforms
from xray_det.errors import InputError


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**40), min_size=1, max_size=8),
    st.integers(1, 30),
    st.sampled_from(Purpose),
)
@settings(max_examples=50, deadline=None)
def test_a_position_has_its_numbers_whoever_its_neighbours_are(
    seed: int, positions: list[int], count: int, purpose: Purpose
) -> None:
    key = Key(seed=seed, phase=1, epoch=3)
    together = uniforms(key, purpose, np.array(positions), count)
    for position, numbers in zip(positions, together, strict=True):
        run = np.arange(max(0, position - 2), position + 2)
        inside = uniforms(key, purpose, run, count)[list(run).index(position)]
        np.testing.assert_array_equal(numbers, inside)
    assert ((together >= 0) & (together < 1)).all()


def test_streams_do_not_repeat_each_other() -> None:
    positions = np.arange(1000)
    drawn = [
        uniforms(Key(seed=seed, phase=phase, epoch=epoch), purpose, positions, 5, attempt=attempt)
        for seed in (0, 1)
        for phase in (0, 1)
        for epoch in (0, 1)
        for purpose in Purpose
        for attempt in (0, 1)
    ]
    assert len(np.unique(np.concatenate(drawn))) == 16 * len(Purpose) * 5000


def test_numbers_are_uniform_and_independent_of_position() -> None:
    numbers = uniforms(Key(seed=7), Purpose.GEOMETRY, np.arange(20_000), 6)
    deciles = np.bincount((numbers[:, 2] * 10).astype(int), minlength=10)
    assert abs(deciles - 2000).max() < 4.5 * np.sqrt(20_000 * 0.1 * 0.9)
    correlation = np.corrcoef(numbers.T)
    assert abs(correlation - np.eye(6)).max() < 4.5 / np.sqrt(20_000)
    assert abs(np.corrcoef(numbers[1:, 0], numbers[:-1, 0])[0, 1]) < 4.5 / np.sqrt(20_000)


@pytest.mark.parametrize("bad", [{"seed": -1}, {"seed": 2**64}, {"seed": 0, "phase": 2**31}, {"seed": 0, "epoch": -1}])
def test_a_key_outside_its_range_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(reversed(bad))):
        Key(**bad)
