"""Draws: uniform, independent of one another, and a function of the plan position alone."""

import dataclasses

import torch

from tests.models.scenes import key
from xray_det.models.sampling import choose, priorities


def test_draws_depend_on_the_key_and_on_nothing_else() -> None:
    whole = priorities(key(6), 1000, "rois")
    parts = torch.cat([priorities(key(3), 1000, "rois"), priorities(key(3, first=3), 1000, "rois")])
    assert torch.equal(whole, parts)
    assert torch.equal(whole[:, :300], priorities(key(6), 300, "rois"))
    others = [dataclasses.replace(key(6), **{name: 1}) for name in ("seed", "phase", "epoch")]
    for other in [priorities(k, 1000, "rois") for k in others] + [priorities(key(6), 1000, "proposals")]:
        assert (other == whole).float().mean() < 0.01


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = priorities(key(200), 2000, "rois")
    counts = torch.histc(draws, 20, 0, 1)
    expected = draws.numel() / 20
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 50  # 19 degrees of freedom: beyond 50 once in 7,000 good generators
    rows = torch.corrcoef(draws[:40].double()) - torch.eye(40)
    columns = torch.corrcoef(draws[:, :40].T.double()) - torch.eye(40)
    assert rows.abs().max() < 5 / 2000**0.5
    assert columns.abs().max() < 5 / 200**0.5


def test_choose_takes_candidates_first_and_all_equally_often() -> None:
    candidates = torch.tensor([[True, False, True, True, True], [False, False, True, False, False]]).repeat(500, 1)
    row, filled = choose(candidates, priorities(key(1000), 5, "x"), 2)
    assert filled.tolist() == [[True, True], [True, False]] * 500
    assert candidates.gather(1, row)[filled].all()
    drawn = torch.bincount(row[::2].flatten(), minlength=5)
    assert drawn[1] == 0
    assert ((drawn[[0, 2, 3, 4]] - 250).abs() < 60).all()  # standard deviation 11
